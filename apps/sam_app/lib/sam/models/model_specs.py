"""An operator's own models: a YAML file that describes each, so that it is served under its own name.

Such a file is a list. ``docs/models.md`` describes the keys of its entries.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from lib.sam.models.checkpoints import CHECKPOINT_SUFFIXES
from lib.sam.models.registry import ALL_PROMPTS, MODELS, Architecture, ModelSpec, Preprocessing, PromptKind, Sam2Spec

VOLUME_SUFFIX = "_3d"
"""Appended to a model's name, it makes the name of its task for volumes: no model's own name may end so."""

RESERVED_NAMES = ("sam",)
"""Names that mean the default model to clients."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Colour = Annotated[list[float], Field(min_length=3, max_length=3)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class ModelSpecsError(ValueError):
    """A file of models cannot be used; the message is one line that names the file and the key."""


class _Entry(BaseModel):
    """One model of the file; the keys are :class:`ModelSpec`'s."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: _Name
    architecture: Architecture
    checkpoint: str
    description: str = ""
    license: Annotated[str, StringConstraints(min_length=1)] = "not stated"
    research_only: bool = False
    preprocessing: Preprocessing | None = None
    input_size: int | None = None
    pixel_mean: _Colour | None = None
    pixel_std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] | None = None
    prompts: Annotated[list[PromptKind], Field(min_length=1)] = list(ALL_PROMPTS)
    point_candidates: bool = True
    min_score: _Share | None = None
    min_stability: _Share = 0.95

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for key, problem in _problems(self).items():
            if problem:
                raise ValueError(f"{key}: {problem}")
        return self

    def spec(self) -> ModelSpec:
        """Return the spec; what is left open is as for the architecture's own model."""
        values: dict[str, Any] = self.model_dump(exclude_none=True)
        for key in ("prompts", "pixel_mean", "pixel_std"):
            if key in values:
                values[key] = tuple(values[key])
        values["description"] = " ".join(self.description.split()) or f"{self.name} ({self.architecture})"
        values.setdefault("preprocessing", _preprocessings(self.architecture)[0])
        kind = Sam2Spec if _is_sam2(self.architecture) else ModelSpec
        return kind(**values)


def _problems(entry: _Entry) -> Mapping[str, str]:
    """Return what is wrong with single keys, by key; empty texts for those that are right."""
    preprocessings = _preprocessings(entry.architecture)
    chosen = entry.preprocessing or preprocessings[0]
    return {
        "name": _name_problem(entry.name),
        "checkpoint": _checkpoint_problem(entry.checkpoint),
        "input_size": _input_size_problem(entry.architecture, entry.input_size),
        "preprocessing": "" if chosen in preprocessings else f"{entry.architecture} takes {_or(preprocessings)}",
        **{
            key: "" if getattr(entry, key) is None or chosen == "sam" else f"{chosen} has its own; only sam takes one"
            for key in ("pixel_mean", "pixel_std")
        },
        "prompts": "" if {"point", "box"} & set(entry.prompts) else "there must be point, box or both",
    }


def _name_problem(name: str) -> str:
    if name in MODELS:
        return f"{name} is a model that comes with the app; choose another name"
    if name.lower() in RESERVED_NAMES:
        return f"{name} means the default model to clients; choose another name"
    if name.endswith(VOLUME_SUFFIX):
        return f"a name must not end with {VOLUME_SUFFIX}, as its task for volumes does"
    return ""


def _checkpoint_problem(checkpoint: str) -> str:
    if "/" in checkpoint or "\\" in checkpoint or checkpoint.startswith("."):
        return f"{checkpoint!r} must be the name of a file in the model folder, without a path"
    if not checkpoint.endswith(CHECKPOINT_SUFFIXES):
        return f"{checkpoint!r} must end with {_or(CHECKPOINT_SUFFIXES)}"
    return ""


def _input_size_problem(architecture: Architecture, size: int | None) -> str:
    step = 32 if _is_sam2(architecture) else 16 if architecture.startswith("vit_") else None
    if size is None:
        return ""
    if step is None:
        return f"{architecture} has an input size of its own"
    return "" if 64 <= size <= 2048 and size % step == 0 else f"must be a multiple of {step} from 64 to 2048"


def _is_sam2(architecture: Architecture) -> bool:
    return architecture.startswith("sam2")


def _preprocessings(architecture: Architecture) -> tuple[Preprocessing, ...]:
    """Return what an architecture can be given, the usual one first."""
    if _is_sam2(architecture):
        return ("sam2",)
    if architecture.startswith("efficientvit_"):
        return ("sam",)
    return ("lite_medsam", "sam", "medsam") if architecture == "lite_medsam" else ("sam", "medsam", "lite_medsam")


def _or(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1]) if len(words) > 1 else words)


_ENTRIES = TypeAdapter(list[_Entry])


def read_model_specs(file: Path) -> tuple[ModelSpec, ...]:
    """Return the models that a file describes.

    Raises:
        ModelSpecsError: If it cannot be read, or an entry of it is wrong.
    """
    try:
        entries = _ENTRIES.validate_python(_OnceLoader(file.read_text(encoding="utf-8")).get_single_data())
    except OSError as error:
        raise ModelSpecsError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelSpecsError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ModelSpecsError(f"{file}: {'; '.join(map(_said, error.errors()))}") from error
    specs = tuple(entry.spec() for entry in entries)
    names = [spec.name for spec in specs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ModelSpecsError(f"{file}: model {index + 1}, name: {name} is there already")
    return specs


def known_models(file: Path | None) -> dict[str, ModelSpec]:
    """Return the models that come with the app, and those of an operator's file, by name.

    Raises:
        ModelSpecsError: As :func:`read_model_specs`.
    """
    return models_with(() if file is None else read_model_specs(file))


def models_with(own: Sequence[ModelSpec]) -> dict[str, ModelSpec]:
    """Return the models that come with the app, and these, by name."""
    return {**MODELS, **{spec.name: spec for spec in own}}


def _said(error: Any) -> str:
    """Return one of pydantic's errors in words: which model, counted from 1, which key, what is wrong."""
    index, *keys = error["loc"] or ("",)
    if not isinstance(index, int):
        return "it must be a list of models, each beginning with a dash"
    if error["type"] == "extra_forbidden":
        return f"model {index + 1}: there is no key {keys[0]!r}; there are {', '.join(_Entry.model_fields)}"
    message = error["msg"]
    if error["type"] == "value_error":  # one of ours, which names the key
        return f"model {index + 1}, {message.removeprefix('Value error, ')}"
    place = "".join(f", {key + 1 if isinstance(key, int) else key}" for key in keys)
    return f"model {index + 1}{place}: {message[:1].lower()}{message[1:]}"


class _OnceLoader(yaml.SafeLoader):
    """YAML whose mappings have each key once; PyYAML's own loader takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See :class:`yaml.SafeLoader`."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)

"""The app's options, from ``--conf KEY VALUE``: each is declared once, in :class:`ServerOptions`.

A declaration has the key, the type, the default, how its text is read, and a sentence that describes it, which is also
its row in ``docs/options.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from lib.base.near_names import unknown
from lib.imaging.decoding.memory_budget import available_bytes, budget
from lib.imaging.limits import Limits
from lib.infers.prefetch import DEFAULT_SLICES
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.models.model_specs import ModelSpecsError, models_with, read_model_specs
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.choice import PRECISIONS
from lib.sam.runtimes.runtime import Precision
from lib.server.auth.api_keys import KeyFileError
from lib.server.auth.key_file import KeyFile
from lib.workers.place import WorkersPlace

MAX_FRONTS = 100
"""Number of servers that can share a folder of results."""


class OptionError(ValueError):
    """An option is unknown or its value invalid; the message says which, and what is allowed."""


def _number(text: str, *, is_positive: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf") or (is_positive and not value):
        raise ValueError("must be a number above 0" if is_positive else "must be a number of at least 0")
    return value


_positive = partial(_number, is_positive=True)


def _count(text: str) -> int:
    return int(_number(text))


def _positive_count(text: str) -> int:
    return max(1, int(_positive(text)))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("must be a port, 1 to 65535, or 0 for none")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    """Parse names, separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _origins(text: str) -> tuple[str, ...]:
    """Parse names of servers or origins of web pages, separated by commas."""
    return tuple(word.rstrip("/") for word in _words(text))


def _place(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _key_file(text: str) -> Path:
    file = KeyFile(Path(text).expanduser())
    try:
        file.read()
    except KeyFileError as error:
        raise OptionError(f"--conf api_keys: {error}") from None
    return file.path


def _model_specs(text: str) -> tuple[ModelSpec, ...]:
    try:
        return read_model_specs(Path(text).expanduser())
    except ModelSpecsError as error:
        raise OptionError(f"--conf model_specs: {error}") from None


def _by_itself(text: str) -> int:
    kind, _, number = text.partition(":")
    if kind != "auto" or not number.isascii() or not number.isdigit() or not int(number):
        raise ValueError("must be auto:N, as in auto:20")
    return int(number)


def _pattern(text: str) -> str:
    try:
        if re.compile(text).groups < 1:
            raise ValueError("must have a group, as in (patient[0-9]+)_.*")
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"can be {', '.join(choices)}")
        return text.lower()

    return read


def _front(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= MAX_FRONTS:
        raise ValueError(f"must be a whole number from 0 to {MAX_FRONTS - 1}")
    return int(text)


def _switch(text: str) -> bool:
    return _one_of(("true", "false"))(text) == "true"


def _option(default: object, read: Callable[[str], object], meaning: str, *, shown: str | None = None) -> Any:
    """Declare an option.

    Args:
        default: Its value without ``--conf``; a path is relative to the app's folder.
        read: Returns its value from its text, or raises a ValueError that says what it must be.
        meaning: Description for operators.
        shown: Description of the default for operators, where the value alone does not say enough.
    """
    return field(default=default, metadata={"read": read, "meaning": meaning, "shown": shown})


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options that an operator sets: each field is the ``--conf`` key with its name."""

    models: tuple[str, ...] = _option(
        (), _words, "names, the default one first", shown="`sam_tiny` and those whose checkpoint is in `model/`"
    )
    model_specs: tuple[ModelSpec, ...] = _option((), _model_specs, "YAML file that describes [your own models]")
    labels: tuple[str, ...] = _option(
        ("region", "lesion", "liver", "spleen", "kidney", "pancreas", "heart", "lung", "aorta", "bone"),
        _words,
        "label names that viewers offer",
    )
    device: str | None = _option(None, str, "`cpu`, `cuda`, `cuda:1`", shown="a GPU if there is one")
    precision: Precision | None = _option(
        None,
        _one_of(PRECISIONS),
        "of the networks' arithmetic: `float32`, `bfloat16`, `float16`; on a CPU also `int8`: [speed]",
        shown="what suits the device",
    )
    compile: bool = _option(False, _switch, "`true`: PyTorch compiles the encoders, on a GPU: [speed]")
    workers: WorkersPlace | None = _option(
        None,
        WorkersPlace.parse,
        "who encodes images, [workers] of Ray Serve: `ray:N` here, `ray://host:port`, `http://host:port`",
    )
    worker_cores: int = _option(1, _positive_count, "cores, and threads, of each worker: [workers]")
    ahead: int = _option(DEFAULT_SLICES, _count, "slices encoded before they are clicked on; 0: none: [speed]")
    api_keys: Path | None = _option(
        None, _key_file, "file of API keys, made by `scripts/keys`; with it the server asks for a [login]"
    )
    hosts: tuple[str, ...] = _option((), _origins, "further [names] by which the server may be asked for; `*`: any")
    cors_origins: tuple[str, ...] = _option(
        ("http://localhost", "http://localhost:3000"), _origins, "origins of web pages that may call the server"
    )
    results: Path = _option(Path("results"), _place, "folder of the [results]")
    front: int | None = _option(
        None,
        _front,
        "number among [several] servers that share `results`, 0 to 99: its own are in `front-NUMBER` there",
    )
    results_max_days: float = _option(30, _number, "older results are deleted; 0: never")
    results_max_mb: float = _option(10_240, _number, "above this total the oldest results are deleted; 0: never")
    datastore: Path = _option(Path("datastore"), _place, "folder of the labels of [studies] that are read-only")
    embeddings: Path = _option(Path("embeddings"), _place, "folder of the [embeddings] on disk")
    embeddings_max_mb: float = _option(
        8192, _number, "above this total those not used for longest are deleted; 0: none are kept"
    )
    audit_log: Path = _option(
        Path("logs/audit.jsonl"), _place, "who did what to which image: the [audit log]; one server a file"
    )
    audit_max_mb: float = _option(50, _number, "the audit log is put aside at this size, 20 are kept; 0: never")
    max_upload_mb: float = _option(512, _number, "a larger request is refused: [limits]")
    max_pixels: int = _option(
        Limits.max_pixels, _count, "an image with more, frames × rows × columns, is refused: [limits]"
    )
    max_frames: int = _option(Limits.max_frames, _count, "an image with more frames is refused: [limits]")
    max_prompts: int = _option(
        Limits.max_prompts, _count, "a request with more points, rectangles and drawings is refused"
    )
    max_queue: int = _option(16, _count, "segmentations worked on or waiting; one more is refused: [limits]")
    max_connections: int = _option(200, _positive_count, "connections of one address at the same time: [limits]")
    max_seconds: float = _option(
        300, _positive, "a request's body must arrive, and a segmentation end, within this time: [limits]"
    )
    memory_mb: float = _option(
        budget.total / 2**20,
        _positive,
        "what the images of all requests may take together: [limits]",
        shown="half of what is free at start, or of the control group's limit",
    )
    nninteractive_sessions: int = _option(
        8, _positive_count, "[sessions] of nnInteractive's clients at the same time; one more is refused"
    )
    nninteractive_max_mb: float = _option(
        available_bytes() / 4 / 2**20,
        _positive,
        "what these sessions, and ITK-SNAP's, may hold in memory together",
        shown="a quarter of what is free at start, or of the control group's limit",
    )
    nninteractive_seconds: float = _option(
        40, _positive, "they, and ITK-SNAP, are told what was found in this time, and the rest later: [sessions]"
    )
    itksnap_port: int = _option(0, _port, "further port, for ITK-SNAP's [brush and polygon] alone; 0: none")
    train: int = _option(
        0, _by_itself, "`auto:N`: learn from accepted labels after N new ones, when nobody segments: [learning]"
    )
    study_pattern: str = _option(
        "(.*)",
        _pattern,
        "regular expression whose first group is the patient in an image's id, where one has several files: [learning]",
        shown="each image is a patient's own",
    )
    upstream: str = _option(
        "checked",
        _one_of(("checked", "unchecked")),
        "`unchecked`: start with [other versions] of MONAI Label, too",
    )
    server_mode: bool = _option(
        False, _switch, "MONAI Label's own: tasks that it starts itself make no request to this server"
    )

    @classmethod
    def from_conf(cls, conf: Mapping[str, str], app_dir: Path) -> ServerOptions:
        """Return the options from MONAI Label's ``conf``; the others have their defaults.

        Args:
            conf: Texts of the options by key.
            app_dir: The app's folder.

        Raises:
            OptionError: For an unknown key, naming the most similar one; for an invalid value.
        """
        options = {item.name: item for item in fields(cls)}
        for key in conf:
            if key not in options:
                raise OptionError(f"there is no option {key!r}; {unknown(key, sorted(options))}")
        values: dict[str, Any] = {
            name: app_dir / item.default if isinstance(item.default, Path) else item.default
            for name, item in options.items()
        }
        for key, text in conf.items():
            if text or not isinstance(options[key].default, Path):
                try:
                    values[key] = options[key].metadata["read"](text)
                except OptionError:
                    raise
                except ValueError as error:
                    raise OptionError(f"--conf {key} {error}, not {text!r}") from None
        return cls(**values)

    @property
    def known_models(self) -> Mapping[str, ModelSpec]:
        """The models that come with the app, and the operator's own, by name."""
        return models_with(self.model_specs)

    def embedding_files(self) -> EmbeddingFiles | None:
        """Return the store of embeddings on disk; None if they are not stored."""
        max_bytes = int(self.embeddings_max_mb * 2**20)
        return EmbeddingFiles(self.embeddings, max_bytes) if max_bytes else None

    @property
    def limits(self) -> Limits:
        """The limits of what a request may need."""
        return Limits(max_pixels=self.max_pixels, max_frames=self.max_frames, max_prompts=self.max_prompts)

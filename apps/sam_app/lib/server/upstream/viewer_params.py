"""What clients may send in the ``params`` of ``/infer`` and ``/batch/infer``, by key. Other keys are ignored.

Clients also send numbers and flags as text, and null for values that they do not set. A value of another type is
refused, as it would silently have no effect.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from monailabel.interfaces.datastore import DefaultLabelTag
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, ValidationInfo

from lib.imaging.image import Window
from lib.imaging.labels.label_writers import LABEL_DTYPES, LABEL_SUFFIXES
from lib.sam.prompts import PromptError
from lib.server.upstream.arguments import label_tag
from lib.transforms.prompt_sources import as_prompt_source
from lib.transforms.request import AUTO, Drawing, LabelFormat, SegmentOptions, SegmentRequest, Source, ViewerPrompts
from lib.transforms.viewer_options import (
    as_count,
    as_flag,
    as_multimask,
    as_seconds,
    as_slices,
    as_window,
    one_of,
)
from lib.transforms.viewer_prompts import as_lassos, as_points, as_region, as_scribbles, as_slice

Params = TypeVar("Params", bound=BaseModel)


def read_params(kind: type[Params], params: Mapping[str, Any]) -> Params:
    """Return a client's params, validated.

    Raises:
        PromptError: For a value of a wrong type; the message names its key.
    """
    try:
        return kind.model_validate(params)
    except ValidationError as error:
        raise PromptError(str(error.errors()[0]["ctx"]["error"])) from None


def _by(read: Callable[[Any, str], Any]) -> PlainValidator:
    """Return a validator that reads a field by a function of its value and its name."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        return read(value, str(info.field_name))

    return PlainValidator(validate)


def _as_text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise PromptError(f"{name} must be text")
    return value


def _as_tag(value: Any, name: str) -> str:
    text = _as_text(value, name)
    return DefaultLabelTag.ORIGINAL.value if text is None else label_tag(text)


def _as_label_info(value: Any, name: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise PromptError(f"{name} must be a list of objects with name and idx")
    return value or []


def _as_extension(value: Any, name: str) -> str | None:
    return one_of(value, name, LABEL_SUFFIXES) if value not in (None, "") else None


def _as_dtype(value: Any, name: str) -> str:
    return "uint8" if value is None else one_of(value, name, LABEL_DTYPES)


def _as_batch_tag(value: Any, name: str) -> str:
    return label_tag(str(value or DefaultLabelTag.ORIGINAL.value))


def _as_batch_size(value: Any, name: str) -> int:
    size = value or 0
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise PromptError(f"{name} must be a whole number, 0 for all")
    return size


def _as_flag_if_sent(value: Any, name: str) -> bool | None:
    return None if value is None else as_flag(value, name)


Flag = Annotated[bool, _by(as_flag)]
Text = Annotated[str | None, _by(_as_text)]
PromptSource = Annotated[Source | None, _by(as_prompt_source)]
Points = Annotated[tuple[tuple[float, ...], ...], _by(as_points)]


class OptionParams(BaseModel):
    """The models' options that viewers show."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    window: Annotated[Window | str, _by(as_window)] = AUTO
    candidates: Annotated[bool | None, _by(as_multimask)] = None
    box_from_points: Flag = False
    largest_component: Annotated[bool | None, _by(_as_flag_if_sent)] = None
    fill_holes: Flag = False
    max_slices: Annotated[int, _by(as_count)] = 0


class ViewerParams(OptionParams):
    """What a viewer may send to ``/infer``."""

    foreground: Points = ()
    background: Points = ()
    roi: Annotated[tuple[float, ...] | None, _by(as_region)] = None
    slice: Annotated[float | None, _by(as_slice)] = None
    scribbles: Annotated[tuple[Drawing, ...], _by(as_scribbles)] = ()
    lassos: Annotated[tuple[Drawing, ...], _by(as_lassos)] = ()
    start_from_label: Flag = False
    protect: Flag = False
    undo: Annotated[int, _by(as_count)] = 0
    slices: Annotated[tuple[int, int] | None, _by(as_slices)] = None
    seconds: Annotated[float, _by(as_seconds)] = 0
    prompts: PromptSource = None
    label: Text = None
    label_info: Annotated[list[Any], _by(_as_label_info)] = []
    client_id: Text = None
    result_extension: Annotated[str | None, _by(_as_extension)] = None
    result_dtype: Annotated[str, _by(_as_dtype)] = "uint8"
    save_label: Flag = False
    label_tag: Annotated[str, _by(_as_tag)] = DefaultLabelTag.ORIGINAL.value

    def counts(self) -> dict[str, int]:
        """Return the numbers of points of each kind and of regions, 0 or 1, and of what else there is."""
        points = {"foreground": len(self.foreground), "background": len(self.background)}
        others = {"scribbles": len(self.scribbles), "lassos": len(self.lassos), "start": int(self.start_from_label)}
        others["protect"] = int(self.protect)
        return {**points, "roi": int(self.roi is not None), **{kind: n for kind, n in others.items() if n}}

    @property
    def label_value(self) -> int | None:
        """The number that ``label_info`` has for ``label``."""
        named = (
            one for one in self.label_info if isinstance(one, dict) and self.label and one.get("name") == self.label
        )
        value = next(named, {}).get("idx")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def request(
        self,
        *,
        model: str,
        image: Any,
        client: str | None = None,
        by_index: bool = False,
        sent_label: str | None = None,
    ) -> SegmentRequest:
        """Return the request to run; the arguments are its fields that do not come from these params.

        Raises:
            PromptError: For a label to start from, or steps to undo, where prompts come from elsewhere; for a part of
                a mask that is to be stored, or that nobody could go on with.
        """
        if self.prompts and self.start_from_label:
            raise PromptError(f"start_from_label is for a client's own prompts, not for prompts={self.prompts}")
        if self.prompts and self.undo:
            raise PromptError(f"undo is for a client's own prompts, not for prompts={self.prompts}")
        if self.seconds and self.save_label:
            raise PromptError("seconds: a part of a mask is not stored")
        if self.seconds and not client:
            raise PromptError("seconds: send a client_id, by which the next request goes on where this one ended")
        marked = self.foreground, self.background, self.roi, self.slice, self.scribbles, self.lassos
        options = {name: getattr(self, name) for name in OptionParams.model_fields}
        return SegmentRequest(
            source=self.prompts or Source.VIEWER,
            model=model,
            image=image,
            prompts=None if self.prompts else ViewerPrompts(*marked),
            options=SegmentOptions(
                multimask=options.pop("candidates"),
                start_from_label=self.start_from_label,
                protect=self.protect,
                slices=self.slices,
                seconds=self.seconds,
                undo=self.undo,
                **options,
            ),
            label_format=LabelFormat(self.result_extension, self.result_dtype, by_index),
            automatic=self.prompts is Source.AUTOMATIC,
            client=client,
            object_name=self.label,
            prompting_label=sent_label if self.start_from_label else None,
            protecting_label=sent_label if self.protect else None,
            label_value=self.label_value,
            sent_label=sent_label,
            save_as=self.label_tag if self.save_label else None,
        )


class BatchParams(OptionParams):
    """What a client may send to ``/batch/infer``."""

    images: Any = None
    max_batch_size: Annotated[int, _by(_as_batch_size)] = 0
    prompts: PromptSource = None
    label_tag: Annotated[str, _by(_as_batch_tag)] = DefaultLabelTag.ORIGINAL.value

    def request(self, *, model: str) -> SegmentRequest:
        """Return the request for each image, whose id is filled in later; a batch has only two of the options."""
        source = self.prompts or Source.AUTOMATIC
        return SegmentRequest(
            source=source,
            model=model,
            image="",
            options=SegmentOptions(window=self.window, multimask=self.candidates),
            automatic=source is Source.AUTOMATIC,
            save_as=self.label_tag,
        )

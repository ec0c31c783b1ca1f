"""The REST routes' request and answers, as they stand in ``/openapi.json``."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    WithJsonSchema,
)

from lib.base.plain_text import is_plain
from lib.imaging.image import Window
from lib.server.rest.timestamps import parse_timestamp


def _timestamp(value: object) -> Decimal:
    """A timestamp as a number or as text.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError("a timestamp is a number of seconds, such as 1732288000.123456")
    return parse_timestamp(repr(value) if isinstance(value, float) else str(value))


Timestamp = Annotated[
    Decimal,
    BeforeValidator(_timestamp),
    PlainSerializer(float, return_type=float),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "examples": [1732288000.12]}),
]


def _label(text: str) -> str:
    """A name that DICOM can hold as a Segment Label (LO, PS3.5 6.2).

    Raises:
        ValueError: If it is blank, or has a backslash, a control character or one that turns the direction of writing.
    """
    if "\\" in text or not is_plain(text):
        raise ValueError("a label is one line of text without backslashes and characters that control how it is shown")
    return text.strip()


Label = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_label)]


class PointInput(BaseModel):
    """A point in pixels of the image as sent: x to the right, y down, from the top-left corner."""

    x: FiniteFloat
    y: FiniteFloat


class RectInput(BaseModel):
    """A rectangle in pixels of the image as sent. A negative width or height was dragged left or up."""

    startX: FiniteFloat = Field(description="x of the corner where the rectangle starts")
    startY: FiniteFloat = Field(description="y of the corner where the rectangle starts")
    width: FiniteFloat
    height: FiniteFloat


class WindowInput(BaseModel):
    """A window in the image's own units: Hounsfield units for CT."""

    center: FiniteFloat
    width: Annotated[FiniteFloat, Field(gt=0)]

    def as_window(self) -> Window:
        """The same as a :class:`Window`; LINEAR is not defined for widths below 1."""
        return Window(self.center, self.width, "LINEAR" if self.width >= 1 else "LINEAR_EXACT")


class SAMInput(BaseModel):
    """What to segment. Without any prompt every object that is found gets its own number.

    With `refine` the prompts are added to those of an earlier result, whose image, frame, window, model and label hold
    where this request names none. Objects whose prompts are extended start from the mask they had.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "SAM",
                    "rectangles": [{"startX": 40, "startY": 60, "width": 120, "height": 90}],
                    "positive_points": [{"x": 100, "y": 100}],
                    "negative_points": [{"x": 150, "y": 140}],
                }
            ]
        },
    )

    model: str | None = Field(
        default=None, max_length=100, description="A model's name; absent, empty or `SAM`: the default model"
    )
    rectangles: Annotated[list[RectInput], Field(max_length=254)] | None = Field(
        default=None, description="One rectangle and the points are one object; of several each is an object"
    )
    positive_points: list[PointInput] | None = Field(default=None, description="Points on the object")
    negative_points: list[PointInput] | None = Field(
        default=None, description="Points beside it; they apply to every object"
    )
    frame: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Frame of a multi-frame image or slice of a volume, from 0; absent: the middle one"
    )
    window: WindowInput | None = Field(default=None, description="Absent: the image's own, else a suitable one")
    label: Label | None = Field(default=None, description="What the object is; the name of the DICOM segment")
    multimask: bool | None = Field(
        default=None,
        description="Three candidates, best first, instead of the model's single mask; absent: as suits the model",
    )
    automatic: bool | None = Field(
        default=True,
        description="Without prompts: true finds every object; false finds none, to send an image ahead of its prompts",
    )
    refine: Timestamp | None = Field(
        default=None, description="The result to go on from. Its image is used again, so that `file` can be left out"
    )
    candidate: Annotated[int, Field(ge=0, le=2)] | None = Field(
        default=None, description="With `refine`: the candidate to go on from; absent: the best one"
    )


class Accepted(BaseModel):
    """The answer to a segmentation request."""

    timestamp: float = Field(
        description="Unix time in seconds with microseconds; names the result in the other routes",
        examples=[1732288000.12],
    )


class NotFinished(BaseModel):
    """The answer while an accepted request is not finished."""

    timestamp: float
    status: Literal["queued"] = "queued"


class ErrorDetail(BaseModel):
    """What was wrong, and what would be right."""

    detail: str | list[dict[str, object]]


class Queue(BaseModel):
    """Segmentation requests."""

    running: int = Field(description="Being worked on or waiting")
    limit: int


Status = Literal["ok", "degraded", "loading", "error"]


class Health(BaseModel):
    """The server's state."""

    status: Status = Field(description="ok and degraded: it segments; degraded: some of its background work failed")
    detail: str | None = Field(default=None, description="Why the status is not ok")
    version: str
    models: dict[str, str] = Field(description="Each model's state: ready, not loaded, no checkpoint")
    default_model: str
    device: str
    runtime: str
    uptime_seconds: float
    queue: Queue

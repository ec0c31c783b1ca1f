"""The REST routes' request and answers, as they stand in ``/openapi.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from lib.imaging.image import Window

Points = Annotated[list["PointInput"], Field(max_length=1000)]


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
    width: Annotated[FiniteFloat, Field(ge=1)]

    def as_window(self) -> Window:
        """The same as a :class:`Window` (LINEAR)."""
        return Window(self.center, self.width)


class SAMInput(BaseModel):
    """What to segment. Without any prompt every object that is found gets its own number."""

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
    positive_points: Points | None = Field(default=None, description="Points on the object")
    negative_points: Points | None = Field(default=None, description="Points beside it; they apply to every object")
    frame: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Frame of a multi-frame image or slice of a volume, from 0; absent: the middle one"
    )
    window: WindowInput | None = Field(default=None, description="Absent: the image's own, else a suitable one")
    label: Annotated[str, Field(min_length=1, max_length=60)] | None = Field(
        default=None, description="What the object is; the name of the DICOM segment"
    )
    multimask: bool | None = Field(
        default=None,
        description="Best of three candidates instead of the model's single mask; absent: as suits the model",
    )


class Accepted(BaseModel):
    """The answer to a segmentation request."""

    timestamp: float = Field(
        description="Unix time in seconds with microseconds; names the result in the other routes",
        examples=[1732288000.12],
    )


class ErrorDetail(BaseModel):
    """What was wrong, and what would be right."""

    detail: str | list[dict[str, object]]


class Queue(BaseModel):
    """Segmentation requests."""

    running: int
    limit: int


class Health(BaseModel):
    """The server's state."""

    status: Literal["ok", "loading", "error"]
    detail: str | None = Field(default=None, description="Why the status is not ok")
    version: str
    models: dict[str, str] = Field(description="Each model's state: ready, not loaded, no checkpoint")
    default_model: str
    device: str
    runtime: str
    uptime_seconds: float
    queue: Queue

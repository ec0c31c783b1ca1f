"""Prompts of a REST client for one image, as they are sent and stored: rectangles and points in pixels of the image."""

from typing import Annotated, Any, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from lib.base.plain_text import is_plain
from lib.imaging.image import Window
from lib.transforms.key_names import with_names

MAX_OBJECTS = 255
"""Objects are numbered with 8 bits."""

MAX_RECTANGLES = MAX_OBJECTS - 1
"""Each rectangle or lasso is an object, and the points outside all of them are one more."""

DEFAULT_LINE_WIDTH = 3.0
"""Of a scribble, in pixels."""

MAX_LINE_WIDTH = 1000.0

MAX_LINE_POINTS = 10_000
"""Points of a scribble or a lasso."""


def _label(text: str) -> str:
    """Return a name that DICOM can store as a Segment Label (LO, PS3.5 6.2), stripped.

    Raises:
        ValueError: If it is blank, or contains a backslash, a control character or one that changes the text direction.
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


class ScribbleInput(BaseModel):
    """A line drawn on the object or beside it, with round ends; what is outside the image is left out."""

    model_config = ConfigDict(extra="forbid")

    points: Annotated[list[PointInput], Field(min_length=1, max_length=MAX_LINE_POINTS)] = Field(
        description="The line goes from point to point"
    )
    width: Annotated[FiniteFloat, Field(gt=0, le=MAX_LINE_WIDTH)] = Field(
        default=DEFAULT_LINE_WIDTH, description="Of the line, in pixels"
    )
    positive: bool = Field(default=True, description="false: drawn beside the object")

    @property
    def xy(self) -> np.ndarray:
        """``(n, 2)`` XY."""
        return _xy(self.points)


class LassoInput(BaseModel):
    """An outline drawn around the object, or around what does not belong to it; it is clipped to the image."""

    model_config = ConfigDict(extra="forbid")

    points: Annotated[list[PointInput], Field(min_length=3, max_length=MAX_LINE_POINTS)] = Field(
        description="Corners of the outline; the last is joined to the first"
    )
    positive: bool = Field(default=True, description="false: what is within does not belong to any object")

    @property
    def xy(self) -> np.ndarray:
        """``(n, 2)`` XY."""
        return _xy(self.points)


def _xy(points: list[PointInput]) -> np.ndarray:
    return np.array([(point.x, point.y) for point in points], dtype=np.float64)


class WindowInput(BaseModel):
    """A window in the image's own units: Hounsfield units for CT."""

    center: FiniteFloat
    width: Annotated[FiniteFloat, Field(gt=0)]

    def as_window(self) -> Window:
        """Return it as a :class:`Window`; with LINEAR_EXACT for widths below 1, where LINEAR is not defined."""
        return Window(self.center, self.width, "LINEAR" if self.width >= 1 else "LINEAR_EXACT")


class SAMPrompts(BaseModel):
    """What to segment on one image; without any prompt every object that is found gets its own number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None, max_length=100, description="A model's name; absent, empty or `SAM`: the default model"
    )
    rectangles: Annotated[list[RectInput], Field(max_length=MAX_RECTANGLES)] | None = Field(
        default=None, description="One rectangle and the points are one object; of several each is an object"
    )
    positive_points: list[PointInput] | None = Field(default=None, description="Points on the object")
    negative_points: list[PointInput] | None = Field(
        default=None, description="Points beside it; they apply to every object"
    )
    scribbles: list[ScribbleInput] | None = Field(
        default=None, description="Each counts as a few points along it, which are of one object"
    )
    lassos: list[LassoInput] | None = Field(
        default=None,
        description="A positive one is like a rectangle that says more; a negative one is cut out of every object",
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

    @model_validator(mode="wrap")
    @classmethod
    def _name_keys(cls, sent: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Have a wrong key's message name the right one."""
        try:
            return handler(sent)
        except ValidationError as error:
            raise with_names(cls, sent, error) from None

    @property
    def positive_lassos(self) -> list[LassoInput]:
        """The lassos that are objects."""
        return [lasso for lasso in self.lassos or () if lasso.positive]

    @property
    def negative_lassos(self) -> list[LassoInput]:
        """The lassos around what does not belong to any object."""
        return [lasso for lasso in self.lassos or () if not lasso.positive]

    @property
    def has_prompts(self) -> bool:
        """Whether anything is marked."""
        return any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Return the numbers of ``rectangles``, ``positive_points`` and ``negative_points``, and of what is drawn."""
        kinds = ("rectangles", "positive_points", "negative_points")
        drawn = (kind for kind in ("scribbles", "lassos") if getattr(self, kind))
        return {kind: len(getattr(self, kind) or ()) for kind in (*kinds, *drawn)}

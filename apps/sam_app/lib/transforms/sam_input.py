"""Prompts of a REST client for one image, as they are sent and stored: rectangles and points in pixels of the image."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from lib.base.plain_text import is_plain
from lib.imaging.image import Window

MAX_OBJECTS = 255
"""Objects are numbered with 8 bits."""

MAX_RECTANGLES = MAX_OBJECTS - 1
"""Each rectangle is an object, and the points outside all of them are one more."""


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

    def counts(self) -> dict[str, int]:
        """Return the numbers of ``rectangles``, ``positive_points`` and ``negative_points``."""
        kinds = ("rectangles", "positive_points", "negative_points")
        return {kind: len(getattr(self, kind) or ()) for kind in kinds}

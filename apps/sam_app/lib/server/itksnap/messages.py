"""The fields of ITK-SNAP's messages, under the protocol's own names, and what they mean.

ITK-SNAP counts axes from that which changes fastest, ``(x, y, z)``; arrays here are ``(z, y, x)``. A 2D image is one
slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from lib.sam.volume.interactions import Point
from lib.server.http.errors import InteractionError
from lib.server.interactive.drawings import Shape
from lib.server.interactive.marked_image import known_spacing

_Size = Annotated[int, Field(gt=0)]


class Metadata(BaseModel):
    """The part ``metadata`` beside an array: its sizes and spacing."""

    dimensions: Annotated[list[_Size], Field(min_length=2, max_length=3)]
    spacing: Annotated[list[float], Field(max_length=3)] = []
    components_per_pixel: int = 1
    component_type: Literal["float32"] = "float32"

    @field_validator("components_per_pixel")
    @classmethod
    def _one(cls, count: int) -> int:
        if count != 1:
            raise ValueError(f"images of one component are read, not of {count}: show the image as grey")
        return count

    @property
    def shape(self) -> Shape:
        """Shape of the array, ``(nz, ny, nx)``."""
        nx, ny, nz = (*self.dimensions, 1)[:3]
        return nz, ny, nx

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """The spacing along the array's axes in mm, positive; 1 where it is not known."""
        return known_spacing((*self.spacing, 1.0, 1.0, 1.0)[2::-1])


class Model(BaseModel):
    """A model in the answer of ``/v2/models``."""

    id: str
    dimensions: Literal[2, 3]
    channels: list[int] = [1]
    interactions: list[Literal["point", "scribble", "lasso"]]


class Models(BaseModel):
    """Answer of ``/v2/models``."""

    models: list[Model]


def point_at(place: Sequence[int], shape: Shape, is_foreground: bool) -> Point:
    """Return a point of an image.

    Args:
        place: ``(x, y, z)``, or ``(x, y)`` of an image of one slice.
        shape: Of the array.
        is_foreground: Whether it is on the object; if not, it is beside it.

    Raises:
        InteractionError: If it is not inside the image.
    """
    sizes = shape[::-1]
    if len(place) == 2 and shape[0] == 1:
        place = (*place, 0)
    if len(place) != 3 or not all(0 <= index < size for index, size in zip(place, sizes, strict=True)):
        raise InteractionError(f"the point {list(place)} is not inside the image of {list(sizes)} voxels")
    x, y, z = place
    return Point((z, y, x), is_foreground)

"""What a user does to mark an object in an array, in any of its planes. Positions are indices of the array's axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Bounds = tuple[tuple[int, int], ...]
"""Half-open [a, b) along each axis."""


class _Marks(Protocol):
    @property
    def bounds(self) -> Bounds: ...


def flat_axes(marks: _Marks) -> list[int]:
    """Return the axes along which a box or a drawing is one voxel thick."""
    return [axis for axis, (first, last) in enumerate(marks.bounds) if last - first == 1]


@dataclass(frozen=True, eq=False)
class Point:
    """A voxel.

    Args:
        coordinates: Indices along the three axes, inside the array.
        is_foreground: Whether it is on the object; if not, it is beside it.
    """

    coordinates: tuple[int, int, int]
    is_foreground: bool

    @property
    def bounds(self) -> Bounds:
        """The voxel's."""
        return tuple((index, index + 1) for index in self.coordinates)


@dataclass(frozen=True, eq=False)
class Box:
    """A box in one plane, or through several slices.

    Args:
        bounds: Three half-open pairs inside the array, none empty.
        is_foreground: As of :class:`Point`.
    """

    bounds: Bounds
    is_foreground: bool


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Something drawn.

    Args:
        corner: Indices of the first voxel of ``drawn``.
        drawn: Three-dimensional bool, inside the array.
        is_foreground: As of :class:`Point`.
    """

    corner: tuple[int, int, int]
    drawn: np.ndarray
    is_foreground: bool

    @property
    def bounds(self) -> Bounds:
        """Of ``drawn``, also where nothing is drawn."""
        return tuple((first, first + size) for first, size in zip(self.corner, self.drawn.shape, strict=True))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is drawn."""
        return not self.drawn.any()


class Scribble(_Drawing):
    """A stroke on the object or beside it, in a plane or through several slices."""


class Lasso(_Drawing):
    """The filled outline around the object, or around what does not belong to it; one voxel thick along an axis."""


Interaction = Point | Box | Scribble | Lasso

"""Slices of a three-dimensional array along any of its axes, with square pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

_SQUARE = 1.2
"""Pixels whose sides differ by more than this factor are resampled to square ones."""

_MOST_PIXELS = 2048
"""Along a side that is resampled: thick slices seen from the side make few pixels into many."""

Picture = Callable[[int, int], np.ndarray]
"""Returns slice k of an array along an axis, windowed, ``(H, W, 3)`` uint8; rows: the earlier of the other axes."""


@dataclass(frozen=True)
class View:
    """The slices along an axis; rows of a slice lie along the earlier of the other two axes, columns along the later.

    Args:
        axis: 0, 1 or 2.
        shape: Of the array.
        scale: Pixels for each voxel along the rows' and the columns' axis; ``(1, 1)`` unless resampled.
    """

    axis: int
    shape: tuple[int, int, int]
    scale: tuple[float, float]

    @classmethod
    def along(cls, axis: int, shape: tuple[int, int, int], spacing: Sequence[float]) -> View:
        """Return the view along an axis.

        Args:
            axis: 0, 1 or 2.
            shape: Of the array.
            spacing: Between voxels along each axis, in millimetres.
        """
        sides = [(spacing[other], shape[other]) for other in range(3) if other != axis]
        finest = min(step for step, _ in sides)
        rows, columns = (min(step / finest, max(1.0, _MOST_PIXELS / count)) for step, count in sides)
        return cls(axis, shape, (rows, columns) if max(rows, columns) > _SQUARE else (1.0, 1.0))

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.axis]

    @property
    def voxels(self) -> tuple[int, int]:
        """Voxels of a slice, ``(rows, columns)``."""
        rows, columns = (size for axis, size in enumerate(self.shape) if axis != self.axis)
        return rows, columns

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a slice, ``(height, width)``."""
        height, width = (max(1, round(count * step)) for count, step in zip(self.voxels, self.scale, strict=True))
        return height, width

    def picture(self, picture: Picture) -> Callable[[int], np.ndarray]:
        """Return what returns slice k in square pixels."""

        def square(k: int) -> np.ndarray:
            voxels = picture(self.axis, k)
            if self.scale == (1.0, 1.0):
                return voxels
            return np.asarray(Image.fromarray(voxels).resize(self.size[::-1], Image.Resampling.BILINEAR))

        return square

    def place(self, index: Sequence[float]) -> tuple[int, float, float]:
        """Return the slice and the pixel (x, y) of a voxel's centre."""
        k = int(index[self.axis])
        row, column = (value for axis, value in enumerate(index) if axis != self.axis)
        (height, width), (rows, columns) = self.size, self.voxels
        return k, (column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5

    def edges(self, bounds: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the box XYXY on a slice of half-open bounds along each axis."""
        (top, bottom), (left, right) = (pair for axis, pair in enumerate(bounds) if axis != self.axis)
        (height, width), (rows, columns) = self.size, self.voxels
        x, y = width / columns, height / rows
        return np.array([left * x, top * y, right * x, bottom * y], dtype=np.float64)

    def pixels(self, voxels: np.ndarray) -> np.ndarray:
        """Return a mask of voxels, ``(rows, columns)`` bool, as one of pixels, ``(height, width)``."""
        return _nearest(voxels, self.size)

    def mask(self, pixels: np.ndarray) -> np.ndarray:
        """Return a mask of pixels as one of voxels."""
        return _nearest(pixels, self.voxels)

    def slices(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the view's shape with the axis moved to the front; no copy."""
        return np.moveaxis(array, self.axis, 0)


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(count) + 0.5) * old / count).astype(int) for count, old in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]

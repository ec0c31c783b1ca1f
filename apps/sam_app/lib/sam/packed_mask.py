"""A mask of an image's size that takes a bit a pixel, and none where it is empty all around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask by the bits of the rectangle that it lies in. ``np.asarray`` makes the whole mask of it.

    Args:
        shape: ``(H, W)`` of the image.
        rows: Of the rectangle.
        columns: Likewise.
        bits: ``(rows, bytes)`` uint8, each row by itself (:func:`numpy.packbits`).
        area: Pixels of the mask.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    bits: np.ndarray
    area: int

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        """Of a whole mask, ``(H, W)`` bool."""
        rows, columns = _extent(np.any(mask, axis=1)), _extent(np.any(mask, axis=0))
        part = mask[rows, columns]
        return cls(
            (mask.shape[0], mask.shape[1]), rows, columns, np.packbits(part, axis=1), int(np.count_nonzero(part))
        )

    @property
    def part(self) -> np.ndarray:
        """What lies in the rectangle, bool; a new array."""
        unpacked = np.unpackbits(self.bits, axis=1, count=self.columns.stop - self.columns.start)
        return unpacked.view(bool)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        mask = np.zeros(self.shape, dtype=dtype or bool)
        mask[self.rows, self.columns] = self.part
        return mask


def _extent(occupied: np.ndarray) -> slice:
    """From the first to the last place that is occupied."""
    if not occupied.any():
        return slice(0, 0)
    return slice(int(occupied.argmax()), len(occupied) - int(occupied[::-1].argmax()))

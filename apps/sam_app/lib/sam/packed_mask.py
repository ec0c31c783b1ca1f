"""Mask of an image's size that takes one bit per pixel of its bounding box, and nothing outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask stored as the bits of its bounding box. ``np.asarray`` unpacks the whole mask.

    Args:
        shape: ``(H, W)`` of the image.
        rows: Rows of the bounding box.
        columns: Its columns.
        bits: ``(rows, bytes)`` uint8, each row packed separately (:func:`numpy.packbits`).
        area: Number of pixels in the mask.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    bits: np.ndarray
    area: int

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        """Pack a whole mask, ``(H, W)`` bool."""
        rows, columns = _extent(np.any(mask, axis=1)), _extent(np.any(mask, axis=0))
        part = mask[rows, columns]
        return cls(
            (mask.shape[0], mask.shape[1]), rows, columns, np.packbits(part, axis=1), int(np.count_nonzero(part))
        )

    @property
    def part(self) -> np.ndarray:
        """The mask within its bounding box, bool; a new array."""
        unpacked = np.unpackbits(self.bits, axis=1, count=self.columns.stop - self.columns.start)
        return unpacked.view(bool)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        mask = np.zeros(self.shape, dtype=dtype or bool)
        mask[self.rows, self.columns] = self.part
        return mask


def _extent(occupied: np.ndarray) -> slice:
    """Return the range from the first to the last True."""
    if not occupied.any():
        return slice(0, 0)
    return slice(int(occupied.argmax()), len(occupied) - int(occupied[::-1].argmax()))

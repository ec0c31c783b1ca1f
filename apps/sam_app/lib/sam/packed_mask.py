"""Mask of an image's size in a few kilobytes, so that a request's hundreds of masks fit into memory together."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask stored as the compressed bits of its bounding box. ``np.asarray`` unpacks the whole mask.

    Args:
        shape: ``(H, W)`` of the image.
        rows: Rows of the bounding box.
        columns: Its columns.
        bits: The part within, each row packed separately (:func:`numpy.packbits`), compressed by zlib.
        area: Number of pixels in the mask.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    bits: bytes
    area: int

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        """Pack a whole mask, ``(H, W)`` bool."""
        rows, columns = extent(np.any(mask, axis=1)), extent(np.any(mask, axis=0))
        part = mask[rows, columns]
        bits = zlib.compress(np.packbits(part, axis=1).tobytes(), level=1)
        return cls((mask.shape[0], mask.shape[1]), rows, columns, bits, int(np.count_nonzero(part)))

    @property
    def part(self) -> np.ndarray:
        """The mask within its bounding box, bool; a new array."""
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        packed = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8).reshape(height, -(-width // 8))
        return np.unpackbits(packed, axis=1, count=width).view(bool)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        mask = np.zeros(self.shape, dtype=dtype or bool)
        mask[self.rows, self.columns] = self.part
        return mask


def extent(occupied: np.ndarray) -> slice:
    """Return the range from the first to the last True; an empty one if there is none."""
    if not occupied.any():
        return slice(0, 0)
    return slice(int(occupied.argmax()), len(occupied) - int(occupied[::-1].argmax()))


def tight_box(mask: np.ndarray) -> np.ndarray:
    """Return the tight box of a non-empty mask ``(H, W)`` bool: ``(4,)`` float32 XYXY, along pixel edges."""
    rows, columns = (extent(np.any(mask, axis=axis)) for axis in (1, 0))
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)

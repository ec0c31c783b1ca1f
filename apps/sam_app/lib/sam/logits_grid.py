"""The square grid of a mask's logits: its position on an image, and geometry of masks on it.

Masks are compared, cleaned and grown on this grid, so that the cost does not depend on the image's size.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

_LEAST_PROBABILITY = 1e-4
"""Bounds logits made of probabilities to about 9, as far as SAM's own reach."""

_CORE, _LEAST_CORE = 0.3, 1.0
"""Depth from which on what a lasso encloses is its core, as a part of the greatest depth; and in cells, at least."""

_AREA_LOGIT, _AREA_BLUR = 8.0, 1.0
"""Logits within an area, and how far its border is blurred, in cells: a little more than one's own hand is sure of."""


@dataclass(frozen=True)
class LogitsGrid:
    """Position of images of one size on the grid: they start at its top left corner; the rest is padding.

    Args:
        image_size: ``(height, width)`` in pixels.
        scale: ``(x, y)``: cells per pixel.
        side: S, cells of the grid along each side.
    """

    image_size: tuple[int, int]
    scale: tuple[float, float]
    side: int = 256

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of the cells that are on the image."""
        height, width = self.image_size
        rows, columns = round(height * self.scale[1]), round(width * self.scale[0])
        return max(1, min(rows, self.side)), max(1, min(columns, self.side))

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """Convert ``(S, S)`` logits to the ``(rows, columns)`` bool mask, without padding."""
        rows, columns = self.shape
        return logits[:rows, :columns] > 0

    def logits(self, probability: np.ndarray) -> np.ndarray:
        """Return the ``(S, S)`` float32 logits of an image's ``(H, W)`` float32 probabilities; low on the padding."""
        rows, columns = self.shape
        small = Image.fromarray(probability).resize((columns, rows), Image.Resampling.BILINEAR)
        inside = np.clip(np.asarray(small), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        result = np.full((self.side, self.side), np.log(_LEAST_PROBABILITY), dtype=np.float32)
        result[:rows, :columns] = np.log(inside / (1 - inside))
        return result

    def area_logits(self, area: np.ndarray) -> np.ndarray:
        """Return the ``(S, S)`` float32 logits that say that the object is about an area, ``(H, W)`` bool."""
        rows, columns = self.shape
        small = Image.fromarray(area.astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR)
        result = np.full((self.side, self.side), -_AREA_LOGIT, dtype=np.float32)
        result[:rows, :columns] = _AREA_LOGIT * (2 * ndimage.gaussian_filter(np.asarray(small), _AREA_BLUR) - 1)
        return result

    def enclosed(self, logits: np.ndarray, area: np.ndarray, *, with_core: bool) -> np.ndarray:
        """Return the logits of an object that a lasso encloses: none beyond it, and its core, in the depth of the area.

        Args:
            logits: ``(S, S)`` float32.
            area: Within the lasso, ``(H, W)`` bool, not empty.
            with_core: Whether the core belongs to the object.
        """
        rows, columns = self.shape
        small = np.asarray(Image.fromarray(area).resize((columns, rows), Image.Resampling.NEAREST))
        if not small.any():
            return logits
        near = ndimage.binary_dilation(small, np.ones((3, 3)))
        inside = depth(small)
        result = self.only(logits, near)
        if with_core:
            core = inside > max(_LEAST_CORE, _CORE * float(inside.max()))
            result[:rows, :columns] = np.where(core, np.abs(result[:rows, :columns]), result[:rows, :columns])
        return result

    def only(self, logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the logits with all cells outside a ``(rows, columns)`` mask made negative."""
        inside = np.zeros(logits.shape, dtype=bool)
        inside[: mask.shape[0], : mask.shape[1]] = mask
        return np.where(inside, logits, -np.abs(logits))

    def point(self, cell: tuple[float, float]) -> tuple[float, float]:
        """Return the pixel (x, y) at the centre of a cell (row, column)."""
        height, width = self.image_size
        x, y = ((index + 0.5) / step - 0.5 for index, step in zip(cell[::-1], self.scale, strict=True))
        return min(max(x, 0), width - 1), min(max(y, 0), height - 1)

    def cell(self, point: tuple[float, float]) -> tuple[int, int]:
        """Return the cell (row, column) at a pixel (x, y)."""
        x, y = (int((value + 0.5) * step) for value, step in zip(point, self.scale, strict=True))
        rows, columns = self.shape
        return min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)


def depth(mask: np.ndarray) -> np.ndarray:
    """Return each mask cell's distance, in cells, to the outside (including beyond the grid's border); 0 outside."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


def innermost(mask: np.ndarray) -> tuple[int, int]:
    """Return the (row, column) of the deepest cell of a non-empty mask."""
    row, column = np.unravel_index(int(np.argmax(depth(mask))), mask.shape)
    return int(row), int(column)


def touching(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the connected components of a mask that overlap another mask."""
    labels, count = ndimage.label(mask)
    kept = np.zeros(count + 1, dtype=bool)
    kept[labels[other]] = True
    kept[0] = False
    return np.asarray(kept[labels])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice overlap of two masks, or of a mask and probabilities, from 0 to 1; 0 if both are empty."""
    total = float(a.sum() + b.sum())
    return 2 * float((a * b).sum()) / total if total else 0.0

"""What one gets without a model, from the prompt alone or from grey values: what a model must beat."""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_otsu

DISC_RADIUS = 0.04
"""Of the disc around a point, as a part of the image's shorter side: a point says nothing of a size."""


def filled_box(shape: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: the pixels whose centres are in the box."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside: np.ndarray = (columns > box[0]) & (columns < box[2]) & (rows > box[1]) & (rows < box[3])
    return inside


def ellipse_in_box(shape: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: the ellipse that touches the box's four sides."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    x = (columns - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    y = (rows - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    inside: np.ndarray = x**2 + y**2 <= 1
    return inside


def ellipsoid_in_box(shape: tuple[int, ...], box: np.ndarray, first: float, last: float) -> np.ndarray:
    """``(K, H, W)`` bool: the ellipsoid that touches the sides of a box, XYXY, which reaches from first to last."""
    z = ((np.arange(shape[0]) + 0.5) - (first + last) / 2) / max((last - first) / 2, 0.5)
    rows, columns = np.mgrid[: shape[1], : shape[2]] + 0.5
    x = (columns - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    y = (rows - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    inside: np.ndarray = (x**2 + y**2)[None] + (z**2)[:, None, None] <= 1
    return inside


def otsu_in_box(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: Otsu's bright or dark part of the box, whichever has more of the ellipse of half its size."""
    grey = frame.mean(axis=2)
    size = (grey.shape[0], grey.shape[1])
    inside = filled_box(size, box)
    if not inside.any() or np.ptp(grey[inside]) == 0:
        return inside
    bright = grey > threshold_otsu(grey[inside])
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 4
    core = ellipse_in_box(size, np.concatenate([centre - half, centre + half]))
    chosen = bright if not core.any() or bright[core].mean() >= 0.5 else ~bright
    return inside & chosen


def disc_at(shape: tuple[int, int], x: float, y: float) -> np.ndarray:
    """``(H, W)`` bool: a disc around the point, see :data:`DISC_RADIUS`."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside: np.ndarray = (columns - x) ** 2 + (rows - y) ** 2 <= (DISC_RADIUS * min(shape)) ** 2
    return inside

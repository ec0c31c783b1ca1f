"""Simulated users: what they draw first, and where they click next."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from lib.learning.simulated_user import centre_point, largest_error
from lib.sam.packed_mask import tight_box

Click = tuple[float, float, int]
"""x, y, and 1 on the object or 0 beside it."""


def box_around(truth: np.ndarray) -> np.ndarray:
    """``(4,)`` XYXY of the tight box, along pixel edges."""
    return tight_box(truth).astype(float)


def jittered_box(truth: np.ndarray, rng: np.random.Generator, pixels: int = 5) -> np.ndarray:
    """The tight box, shifted in x and in y by up to so many pixels and at most by half its shorter side.

    As SAM-Med2D's ``get_boxes_from_mask`` does (Cheng et al. 2023, arXiv:2308.16184).
    """
    box = box_around(truth)
    most = min(pixels, int(min(box[2] - box[0], box[3] - box[1]) / 2))
    return box + np.tile(rng.integers(-most, most + 1, 2), 2)


def centre_click(truth: np.ndarray) -> Click:
    """The centre of the largest circle inscribed in the object."""
    return (*centre_point(truth), 1)


def random_click(truth: np.ndarray, rng: np.random.Generator) -> Click:
    """Any pixel of the object, all alike (Kirillov et al. 2023, arXiv:2304.02643, appendix D.1)."""
    rows, columns = np.nonzero(truth)
    pick = rng.integers(len(rows))
    return float(columns[pick]), float(rows[pick]), 1


def eroded(truth: np.ndarray, pixels: int = 3) -> np.ndarray | None:
    """The object less so many pixels all around; None if nothing is left."""
    left = ndimage.binary_erosion(truth, iterations=pixels)
    return left if left.any() else None


def corrective_click(answer: np.ndarray, truth: np.ndarray) -> Click | None:
    """The next click: the centre of the largest connected region that is wrong, missed or too much.

    The rule of interactive segmentation's NoC protocol (Sofiiuk et al. 2021, arXiv:2102.06583, section 4). None if
    nothing is wrong.
    """
    error = largest_error(truth, answer)
    return None if error is None else (*centre_point(error[0]), error[1])

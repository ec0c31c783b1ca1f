"""Prompts that take background points out of a mask."""

from __future__ import annotations

import numpy as np

from lib.sam.logits_grid import LogitsGrid
from lib.sam.models.registry import ALL_PROMPTS
from lib.sam.prompts import BACKGROUND, FOREGROUND
from lib.sam.volume.corrections import correction_prompts

GRID = LogitsGrid((128, 128), (2.0, 2.0))


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:128, :128]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def logits_of(mask: np.ndarray) -> np.ndarray:
    """Of a mask of the picture: the grid has two cells a pixel."""
    return np.where(np.kron(mask, np.ones((2, 2), bool)), np.float32(8), np.float32(-8))


def test_a_correction_shows_the_object_where_it_is_deepest_and_far_from_the_background_points():
    mask = disc(60, 64, 20)
    background = np.array([[48.0, 64.0]])
    prompts = correction_prompts(GRID, logits_of(mask), background, ALL_PROMPTS)
    assert prompts is not None and prompts.labels.tolist() == [FOREGROUND, BACKGROUND]
    x, y = prompts.points[0]
    assert mask[round(y), round(x)] and x > 60 and abs(y - 64) < 3, "on the other side of the background point"
    assert prompts.points[1].tolist() == [48, 64] and np.array_equal(prompts.mask_logits, logits_of(mask))


def test_nothing_is_corrected_where_nothing_remains():
    assert (
        correction_prompts(GRID, logits_of(np.zeros((128, 128), bool)), np.array([[48.0, 64.0]]), ALL_PROMPTS) is None
    )

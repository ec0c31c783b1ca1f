"""Corrections of a mask on a slice, by points."""

from __future__ import annotations

import numpy as np

from lib.sam.logits_grid import LogitsGrid
from lib.sam.models.registry import ALL_PROMPTS
from lib.sam.prompts import BACKGROUND, FOREGROUND
from lib.sam.volume.corrections import corrected, correction_prompts

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


def test_a_point_beside_a_mask_adds_about_as_far_as_it_asks_for():
    start, answer = disc(30, 30, 10), disc(30, 30, 25)
    near, far = (corrected(start, answer, np.array([[30.0 + 10 + off, 30.0]]), np.array([1])) for off in (2, 12))
    assert start.sum() < near.sum() < disc(30, 30, 17.5).sum()
    assert np.array_equal(far, answer)


def test_a_point_on_a_mask_takes_away_from_its_piece_alone_and_adds_nothing():
    start, answer = disc(25, 30, 12) | disc(75, 30, 12), disc(25, 30, 12) | disc(60, 30, 20)
    assert np.array_equal(
        corrected(start, np.zeros_like(start), np.array([[75.0, 30.0]]), np.array([0])), disc(25, 30, 12)
    )
    now = corrected(start, answer, np.array([[84.0, 30.0]]), np.array([0]))
    assert not (now & ~start).any() and not now[30, 84]


def test_points_of_both_kinds_do_both():
    start, answer = disc(30, 30, 15), disc(45, 30, 15)
    now = corrected(start, answer, np.array([[55.0, 30.0], [20.0, 30.0]]), np.array([1, 0]))
    assert now[30, 55] and not now[30, 18]


def test_a_point_that_the_mask_agrees_with_changes_nothing():
    start, answer = disc(30, 30, 15), disc(50, 30, 20)
    for point, label in (((30.0, 30.0), 1), ((90.0, 5.0), 0)):
        assert np.array_equal(corrected(start, answer, np.array([point]), np.array([label])), start)

"""A picture that loses what there is in the values is told from one of a frame with nothing in it."""

from __future__ import annotations

import numpy as np
import pytest

from lib.transforms.visibility import hides_content, is_uninformative, subsample

Y, X = np.mgrid[:128, :160]
DISC = (X - 100) ** 2 + (Y - 45) ** 2 <= 400
NOISE = np.random.default_rng(1).normal(0, 15, DISC.shape)
VALUES = np.where(DISC, 850, 300) + NOISE
EVERYWHERE = np.ones(DISC.shape, dtype=bool)


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("low", "high"),
    [(5000, 6000), (-100, 0), (0, 30000), (-90000, 1000), (-30000, 30000), (1, 2), (575, 576), (-300, 260)],
)
def test_lost(low, high) -> None:
    shown = windowed(VALUES, low, high)
    assert is_uninformative(shown) and hides_content(VALUES, shown, EVERYWHERE)


@pytest.mark.parametrize(("low", "high"), [(0, 1000), (250, 350), (200, 2000), (800, 900), (-1000, 1000)])
def test_seen(low, high) -> None:
    assert not hides_content(VALUES, windowed(VALUES, low, high), EVERYWHERE)


@pytest.mark.parametrize(
    "values", [NOISE, np.zeros(DISC.shape), np.where(DISC, 255.0, 0.0)], ids=["noise", "one", "two"]
)
def test_where_nothing_is_lost_a_black_picture_is_right(values) -> None:
    shown = windowed(values, 0.5, 2000) if values.max() < 255 else values.astype(np.uint8)
    assert not hides_content(values, shown, EVERYWHERE)


def test_a_small_bright_object_on_nothing_is_seen() -> None:
    small = np.where((X - 100) ** 2 + (Y - 45) ** 2 <= 30, 200, 0).astype(np.uint8)
    assert not hides_content(small, small, EVERYWHERE)


def test_bright_text_on_a_picture_in_few_low_values_does_not_make_it_seen() -> None:
    values = np.where(DISC, 3, 1).astype(np.uint8)
    values[2:6, 2:30] = 255
    assert hides_content(values, values, EVERYWHERE)


def test_values_that_do_not_count_are_left_out() -> None:
    values = VALUES.copy()
    values[:, :40] = 1e6
    shown = windowed(values, 0, 30000)
    assert hides_content(values, shown, values < 1e6) and not hides_content(values, shown, EVERYWHERE)


def test_a_large_frame_is_thinned_out() -> None:
    assert subsample(np.zeros((3000, 4000))).size < 80_000
    assert subsample(np.zeros((60, 70, 3))).shape == (60, 70, 3)


def test_a_drawing_on_paper_is_seen() -> None:
    paper = np.where(X // 20 % 2, 250, 246).astype(np.uint8)
    paper[40:44, 40:70] = 20
    assert not hides_content(paper, paper, EVERYWHERE)

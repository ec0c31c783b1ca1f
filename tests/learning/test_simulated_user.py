"""Simulated users mark what is in the picture, whatever its shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lib.learning.interactive import first_prompts
from lib.learning.simulated_user import loose_box, outside_point, rough_outline, stroke
from lib.sam.packed_mask import tight_box


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (60, 60)], ids=["wide", "tall", "square"])
def test_boxes_and_points_lie_in_pictures_that_are_not_square(shape: tuple[int, int]) -> None:
    height, width = shape
    mask = np.zeros(shape, bool)
    mask[height - 12 :, width - 14 :] = True
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y = outside_point(rng, mask)
        assert not mask[int(y), int(x)]
        x0, y0, x1, y1 = loose_box(rng, mask, 1.0)
        assert np.abs(np.subtract((x0, y0, x1, y1), tight_box(mask))).max() <= 8


def test_a_box_at_the_edge_always_has_an_area() -> None:
    mask = np.zeros((30, 50), bool)
    mask[4:6, 48:] = True
    rng = np.random.default_rng(0)
    for _ in range(2000):
        x0, y0, x1, y1 = loose_box(rng, mask, 1.0)
        assert x0 < x1 and y0 < y1


def test_an_object_that_fills_its_picture_has_no_point_beside_it() -> None:
    rng = np.random.default_rng(0)
    filled, small = np.ones((30, 40), bool), np.zeros((30, 40), bool)
    small[10:20, 10:20] = True
    asked = [prompt for _ in range(100) for prompt in first_prompts(rng, [filled, small])]
    assert not any((prompt.labels == 0).any() for prompt in asked)
    assert any((prompt.labels == 0).any() for _ in range(100) for prompt in first_prompts(rng, [small]))


@pytest.mark.parametrize("radius", [3, 6, 20, 200], ids=["tiny", "small", "large", "all of the picture"])
def test_a_stroke_is_one_piece_on_its_object_and_a_lasso_goes_about_around_it(radius: int) -> None:
    rows, columns = np.mgrid[:60, :80]
    mask = np.hypot(rows - 30, columns - 35) <= radius
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(60):
        drawn = stroke(rng, mask)
        assert drawn.any() and not (drawn & ~mask).any()
        assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1
        lengths.append(int(drawn.sum()))
        area = rough_outline(rng, mask)
        overlap = 2 * (area & mask).sum() / (area.sum() + mask.sum())
        assert overlap > (0.5 if radius == 3 else 0.75)
    assert max(lengths) > min(radius, 60) / 2

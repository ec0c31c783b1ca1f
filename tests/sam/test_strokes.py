"""Prompts from scribbles and lassos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sam.prompts import FOREGROUND, PromptError, Prompts
from lib.sam.strokes import MOST_POINTS, lasso_prompts, stroke_points


def line(*, width: int) -> np.ndarray:
    drawn = np.zeros((40, 80), dtype=bool)
    drawn[20 : 20 + width, 10:70] = True
    return drawn


@pytest.mark.parametrize("width", [1, 2, 7])
def test_points_lie_along_the_middle_of_a_scribble_the_middle_one_first(width):
    points = stroke_points(line(width=width))
    assert len(points) == MOST_POINTS
    assert abs(points[0][1] - 39.5) <= 2
    assert sorted(points[1:, 1])[0] < 18 and sorted(points[1:, 1])[-1] > 61
    assert (np.abs(points[:, 0] - (20 + (width - 1) / 2)) <= 2).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scribble_in_any_plane_of_a_volume_has_the_same_points(axis):
    flat = stroke_points(line(width=3))
    points = stroke_points(np.expand_dims(line(width=3), axis))
    assert (points[:, axis] == 0).all()
    assert np.array_equal(np.delete(points, axis, axis=1), flat)


@settings(deadline=None)
@given(st.sets(st.tuples(*[st.integers(0, 11)] * 3), max_size=60), st.integers(1, 8))
def test_every_point_is_on_what_was_drawn(places, most):
    drawn = np.zeros((12, 12, 12), dtype=bool)
    for place in places:
        drawn[place] = True
    points = stroke_points(drawn, most)
    assert bool(len(points)) == bool(places) and len(points) <= most
    assert all(drawn[tuple(point)] for point in points)


def test_a_lasso_is_a_box_and_an_area_or_a_point_for_a_model_without_boxes():
    area = line(width=9)
    prompts = lasso_prompts(area, ("point", "box", "mask"))
    assert prompts.box is not None and prompts.box.tolist() == [10, 20, 70, 29] and prompts.encloses
    assert np.array_equal(prompts.area, area) and not len(prompts.points)
    alone = lasso_prompts(area, ("point",))
    assert alone.box is None and alone.labels.tolist() == [FOREGROUND]
    x, y = alone.points[0].astype(int)
    assert area[y, x]


def test_an_area_has_the_size_of_the_image_and_is_not_empty():
    with pytest.raises(PromptError, match="of which something is true"):
        Prompts(area=np.zeros((4, 4), dtype=bool))
    with pytest.raises(PromptError, match="not both"):
        Prompts(area=np.ones((4, 4), dtype=bool), mask_logits=np.zeros((4, 4)))
    with pytest.raises(PromptError, match="4 x 3 pixels, not 4 x 4"):
        Prompts(area=np.ones((3, 4), dtype=bool)).within(4, 4)


def test_corrections_get_a_box_around_the_mask_and_the_points_on_the_object():
    mask = np.zeros((30, 30), dtype=bool)
    mask[10:20, 10:20] = True
    prompts = Prompts.from_clicks([(24, 15)], [(2, 2)]).correcting(mask)
    assert prompts.box is not None and prompts.box.tolist() == [10, 10, 25, 20]
    assert prompts.area is not None and not prompts.encloses


def test_prompts_with_the_same_key_are_the_same():
    area = np.eye(5, dtype=bool)
    different = [
        Prompts.from_clicks([(1, 2)]),
        Prompts.from_clicks([(2, 1)]),
        Prompts.from_clicks([(1, 2)], [(2, 1)]),
        Prompts.from_clicks([(1, 2)], box=[0, 0, 3, 3]),
        Prompts(area=area),
        Prompts(area=area, encloses=True),
        Prompts(mask_logits=area.astype(float)),
    ]
    assert len({prompts.key for prompts in different}) == len(different)
    assert Prompts.from_clicks([(1, 2)]).key == Prompts.from_clicks([[1.0, 2.0]]).key


def test_a_whole_volume_that_is_filled_is_no_long_work():
    drawn = np.zeros((100, 300, 300), dtype=bool)
    drawn[10:90, 20:280, 20:280] = True
    points = stroke_points(drawn)
    assert len(points) == MOST_POINTS and all(drawn[tuple(point)] for point in points)

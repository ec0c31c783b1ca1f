"""What a user draws on a slice, as points and areas."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from lib.sam.prompts import PromptError
from lib.sam.strokes import MOST_POINTS, lasso_area, scribble_points

SIZE = (40, 60)
COORDINATES = st.floats(-80, 140, allow_nan=False)
LINES = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=12)


def centres() -> np.ndarray:
    """The centres of all pixels, ``(rows * columns, 2)`` XY."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.column_stack([columns.ravel(), rows.ravel()]).astype(float)


def distance_to(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The distance of each point to a line through points."""
    nearest = np.linalg.norm(points - line[0], axis=1)
    for begin, end in pairwise(line):
        along = end - begin
        part = np.clip((points - begin) @ along / max(along @ along, 1e-12), 0, 1)[:, None]
        nearest = np.minimum(nearest, np.linalg.norm(points - (begin + part * along), axis=1))
    return nearest


@settings(deadline=None)
@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=3))
def test_a_triangle_encloses_the_pixels_whose_centres_are_in_it(corners):
    inside = Outline([*corners, corners[0]], closed=True).contains_points(centres()).reshape(SIZE)
    try:
        found = lasso_area(np.array(corners), SIZE)
    except PromptError:
        found = np.zeros(SIZE, dtype=bool)
    on_border = distance_to(np.array([*corners, corners[0]]), centres()).reshape(SIZE) < 1e-6
    assert np.array_equal(found[~on_border], inside[~on_border])


def test_a_pixel_on_the_border_is_in_one_of_two_neighbours():
    left = lasso_area(np.array([(5, 5), (20, 5), (20, 30), (5, 30)]), SIZE)
    right = lasso_area(np.array([(20, 5), (35, 5), (35, 30), (20, 30)]), SIZE)
    assert not (left & right).any() and (left | right).sum() == 30 * 25


def test_an_outline_drawn_twice_around_is_filled_and_its_crossing_ends_are():
    turns = np.linspace(0, 4.2 * np.pi, 200)
    spiral = np.column_stack([30 + 12 * np.cos(turns), 20 + 12 * np.sin(turns)])
    area = lasso_area(spiral, SIZE)
    disc = (np.linalg.norm(centres() - (30, 20), axis=1) < 11).reshape(SIZE)
    assert area[disc].all() and area.sum() < np.pi * 13**2


def test_a_lasso_is_clipped_to_the_image_however_far_it_goes():
    far = 1e300
    assert lasso_area(np.array([(-far, -far), (far, -far), (far, far), (-far, far)]), SIZE).all()
    half = lasso_area(np.array([(29.5, -far), (far, -far), (far, far), (29.5, far)]), SIZE)
    assert half[:, 30:].all() and not half[:, :30].any()


@pytest.mark.parametrize("outline", [[(100, 5), (120, 5), (110, 30)], [(5.2, 5.2), (5.4, 5.2), (5.3, 5.4)]])
def test_a_lasso_around_nothing_is_refused(outline):
    with pytest.raises(
        PromptError, match=rf"begins at \({outline[0][0]}, {outline[0][1]}\) encloses no pixel .*60 x 40"
    ):
        lasso_area(np.array(outline), SIZE)


@settings(deadline=None)
@given(LINES, st.floats(0.1, 12))
def test_points_of_a_scribble_are_on_it_and_on_the_image(line, width):
    drawn = np.array(line)
    reach = max(width / 2, 0.75)  # a thin one marks the pixels that its points are in
    on_image = distance_to(drawn, centres()).reshape(SIZE) <= reach
    try:
        points = scribble_points(drawn, width, SIZE)
    except PromptError as refusal:
        assert "is outside the image of 60 x 40" in str(refusal)
        rows, columns = (np.round(drawn[:, axis]) for axis in (1, 0))
        inside = (rows >= 0) & (rows < SIZE[0]) & (columns >= 0) & (columns < SIZE[1])
        assert not inside.any()
        return
    assert 1 <= len(points) <= MOST_POINTS
    assert on_image[points[:, 1].astype(int), points[:, 0].astype(int)].all()


def test_the_points_of_a_line_are_its_middle_and_its_ends():
    points = scribble_points(np.array([(5, 20), (30, 20), (55, 20)]), 3, SIZE)
    assert points[0].tolist() == pytest.approx([30, 20], abs=1) and sorted(points[1:, 0].tolist()) == pytest.approx(
        [5, 55], abs=2
    )
    assert (abs(points[:, 1] - 20) <= 1).all()


def test_a_dot_is_a_point():
    assert scribble_points(np.array([(12.4, 7.6)]), 1, SIZE).tolist() == [[12, 8]]


def test_a_long_line_on_a_large_image_takes_no_time_for_the_image():
    begun = time.process_time()
    points = scribble_points(np.array([(3000, 3000), (3100, 3040)]), 3, (6000, 6000))
    assert time.process_time() - begun < 0.2 and abs(points[0] - (3050, 3020)).max() <= 2

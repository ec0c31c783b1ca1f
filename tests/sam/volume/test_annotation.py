"""One object annotated step by step in an array, with the bundled model and balls in noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import PromptError
from lib.sam.volume.annotation import Annotation
from lib.sam.volume.interactions import Box, Lasso, Point, Scribble

SHAPE, SPACING = (32, 96, 104), (2.0, 1.0, 1.0)
CENTRE, RADIUS = (15, 45, 58), 20.0


def ball(centre: tuple[int, int, int] = CENTRE, radius: float = RADIUS, spacing=SPACING, shape=SHAPE) -> np.ndarray:
    grids = np.ogrid[tuple(slice(size) for size in shape)]
    return sum(((grid - c) * step) ** 2 for grid, c, step in zip(grids, centre, spacing, strict=True)) <= radius**2


BALL, OTHER = ball(), ball((15, 50, 14), 11.0)


def pictures(objects: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 5, objects.shape)
    return np.clip(np.where(objects, 170, 60) + noise, 0, 255).astype(np.uint8)


def annotation(objects: np.ndarray, spacing=SPACING) -> Annotation:
    grey = pictures(objects)

    def picture(axis: int, k: int) -> np.ndarray:
        return np.repeat(np.take(grey, k, axis)[..., None], 3, axis=2)

    return Annotation(objects.shape, spacing, picture)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


@pytest.fixture
def two_balls() -> Annotation:
    return annotation(BALL | OTHER)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


def drawing(kind: type[Scribble] | type[Lasso], voxels: np.ndarray, is_foreground: bool = True) -> Scribble | Lasso:
    places = np.argwhere(voxels)
    corner, end = places.min(axis=0), places.max(axis=0) + 1
    return kind(tuple(corner.tolist()), voxels[tuple(map(slice, corner, end))], is_foreground)


def slice_of(mask: np.ndarray, axis: int, k: int) -> np.ndarray:
    """Return an array in which only slice k along an axis is left."""
    one = np.zeros_like(mask)
    np.moveaxis(one, axis, 0)[k] = np.moveaxis(mask, axis, 0)[k]
    return one


def box_of(mask: np.ndarray, is_foreground: bool = True) -> Box:
    places = np.argwhere(mask)
    return Box(tuple(zip(places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist(), strict=True)), is_foreground)


def stroke(axis: int) -> Scribble:
    """Return a stroke of two voxels' width through the ball in one of its planes."""
    voxels = np.zeros(SHAPE, dtype=bool)
    along = 2 if axis != 2 else 1
    where = [slice(c, c + 2) for c in CENTRE]
    where[axis], where[along] = slice(CENTRE[axis], CENTRE[axis] + 1), slice(CENTRE[along] - 9, CENTRE[along] + 9)
    voxels[tuple(where)] = True
    return drawing(Scribble, voxels)


PLANE = [slice_of(BALL, axis, CENTRE[axis]) for axis in range(3)]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Point(CENTRE, True), id="point"),
        pytest.param(box_of(BALL), id="box through slices"),
        *(pytest.param(box_of(PLANE[axis]), id=f"box across axis {axis}") for axis in range(3)),
        *(pytest.param(drawing(Lasso, PLANE[axis]), id=f"lasso across axis {axis}") for axis in range(3)),
        *(pytest.param(stroke(axis), id=f"scribble across axis {axis}") for axis in range(3)),
    ],
)
def test_each_kind_of_prompt_in_each_plane_finds_the_object_alone(predictor, two_balls, step):
    two_balls.add(step)
    assert dice(two_balls.update(predictor), BALL) > 0.9


def test_the_first_plane_drawn_in_is_the_one_followed_and_other_planes_add_to_it(predictor, two_balls):
    two_balls.add(box_of(PLANE[1]))
    first = two_balls.update(predictor)
    two_balls.add(drawing(Lasso, PLANE[2]))
    assert dice(two_balls.update(predictor), BALL) > 0.9
    assert dice(first, BALL) > 0.9


def test_slices_seen_from_the_side_of_thick_ones_have_square_pixels(predictor):
    spacing, shape = (5.0, 1.0, 1.0), (16, 96, 104)
    thick = ball((8, 45, 58), 25.0, spacing, shape)
    marked = annotation(thick, spacing)
    marked.add(box_of(slice_of(thick, 1, 45)))
    assert dice(marked.update(predictor), thick) > 0.88


def test_background_far_from_the_mask_leaves_it_alone_also_on_the_prompted_slice(predictor, two_balls):
    two_balls.add(Point(CENTRE, True))
    before = two_balls.update(predictor)
    for place in ((15, 85, 8), (29, 8, 8)):
        two_balls.add(Point(place, False))
        assert np.array_equal(two_balls.update(predictor), before)


def test_background_before_any_foreground_is_no_error(predictor, two_balls):
    two_balls.add(Point((15, 50, 14), False))
    assert not two_balls.update(predictor).any()
    two_balls.add(Point(CENTRE, True))
    assert dice(two_balls.update(predictor), BALL) > 0.9


@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_an_area_beside_the_object_is_cut_out(predictor, two_balls, kind):
    two_balls.add(Point(CENTRE, True))
    assert two_balls.update(predictor)[15, 45, 70]
    beside = np.zeros(SHAPE, dtype=bool)
    beside[15, 35:56, 66:90] = True
    two_balls.add(box_of(beside, False) if kind == "box" else drawing(Lasso, beside, False))
    assert not two_balls.update(predictor)[beside].any()


def test_steps_are_undone_and_done_again_exactly(predictor, two_balls):
    masks = [two_balls.update(predictor)]
    for step in (Point(CENTRE, True), Point((15, 50, 14), True), stroke(0)):
        two_balls.add(step)
        masks.append(two_balls.update(predictor))
    for mask in reversed(masks[:-1]):
        assert two_balls.undo()
        assert np.array_equal(two_balls.update(predictor), mask)
    assert not two_balls.undo()
    for mask in masks[1:]:
        assert two_balls.redo()
        assert np.array_equal(two_balls.update(predictor), mask)
    assert not two_balls.redo()
    two_balls.undo()
    two_balls.add(Point((5, 5, 5), False))
    assert not two_balls.redo(), "a new step takes the place of those that were undone"


def test_a_correction_of_a_mask_spreads_until_it_no_longer_matters(predictor, two_balls):
    """A mask that is right but on three slices is mended there by one point; elsewhere it is not touched."""
    start = BALL.copy()
    start[13:16, :, 58:] = False
    start[25, 10:20, 5:15] = True  # a speck that no prompt is near to
    two_balls.start_from(start)
    assert np.array_equal(two_balls.update(predictor), start)
    two_balls.add(Point((14, 45, 66), True))
    mask = two_balls.update(predictor)
    assert dice(mask[13:16], BALL[13:16]) > 0.9 > dice(start[13:16], BALL[13:16])
    changed = np.flatnonzero((mask != start).any(axis=(1, 2)))
    assert changed.min() >= 12 and changed.max() <= 16
    assert two_balls.undo()
    assert np.array_equal(two_balls.update(predictor), start)


def test_background_takes_away_from_a_mask_to_start_from(predictor, two_balls):
    two_balls.start_from(BALL | OTHER)
    two_balls.add(Point((15, 50, 14), False))
    mask = two_balls.update(predictor)
    assert np.array_equal(mask & BALL, BALL), "what is not near to it stays"
    assert np.count_nonzero(mask & OTHER) < 0.1 * np.count_nonzero(OTHER)
    assert not (mask & ~(BALL | OTHER)).any(), "what is taken away adds nothing elsewhere"


def test_what_is_taken_away_is_followed_also_where_it_is_all_there_is(predictor):
    apart = ball((6, 50, 14), 9.0)
    marked = annotation(BALL | apart)
    start = ball((22, 45, 58), 15.0) | apart
    marked.start_from(start)
    marked.add(Point((6, 50, 14), False))
    mask = marked.update(predictor)
    assert np.count_nonzero((mask != start).any(axis=(1, 2))) >= 5
    assert np.count_nonzero(mask & apart) < 0.6 * np.count_nonzero(apart)
    assert np.array_equal(mask & ~apart, start & ~apart)


def test_a_point_far_from_a_mask_adds_the_piece_that_it_is_on(predictor, two_balls):
    two_balls.start_from(BALL)
    two_balls.add(Point((15, 50, 14), True))
    mask = two_balls.update(predictor)
    assert np.array_equal(mask & BALL, BALL)
    assert dice(mask & ~BALL, OTHER) > 0.9


def test_a_mask_is_refined_slice_by_slice_if_that_is_asked_for(predictor, two_balls):
    rough = ball(CENTRE, RADIUS - 4)
    two_balls.start_from(rough, refine=True)
    assert dice(two_balls.update(predictor), BALL) > dice(rough, BALL) + 0.03


def test_without_following_only_slices_with_prompts_have_a_mask(predictor, two_balls):
    two_balls.add(Point(CENTRE, True))
    two_balls.add(Point((20, 45, 58), True))
    mask = two_balls.update(predictor, through_volume=False)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [15, 20]


def test_what_there_was_no_time_for_is_found_by_the_next_call(predictor, two_balls):
    whole = annotation(BALL | OTHER)
    whole.add(Point(CENTRE, True))
    expected = whole.update(predictor)
    two_balls.add(Point(CENTRE, True))
    part = two_balls.update(predictor, seconds=0)
    assert not two_balls.is_complete
    assert 0 < np.count_nonzero(part) < np.count_nonzero(expected)
    assert dice(two_balls.update(predictor), expected) > 0.99
    assert two_balls.is_complete


def test_nothing_drawn_is_a_step_without_effect(predictor, two_balls):
    two_balls.add(Scribble((3, 4, 5), np.zeros((1, 4, 4), dtype=bool), True))
    assert not two_balls.update(predictor).any()
    assert two_balls.undo()


@pytest.mark.parametrize(
    "step", [Point((32, 0, 0), True), Point((-1, 0, 0), True), Box(((0, 1), (5, 5), (0, 3)), True)]
)
def test_what_is_not_inside_the_array_is_refused_and_changes_nothing(predictor, two_balls, step):
    with pytest.raises(PromptError, match="not inside"):
        two_balls.add(step)
    assert not two_balls.undo()


def test_a_mask_of_another_shape_is_refused(two_balls):
    with pytest.raises(PromptError, match="voxels"):
        two_balls.start_from(np.zeros((2, 2, 2), dtype=bool))


def test_counts_and_bytes_tell_of_the_present_state(predictor, two_balls):
    two_balls.add(Point(CENTRE, True))
    two_balls.add(box_of(PLANE[0]))
    two_balls.update(predictor)
    assert two_balls.counts() == {"points": 1, "boxes": 1, "scribbles": 0, "lassos": 0, "masks": 0}
    assert two_balls.nbytes > 20 * np.count_nonzero(BALL.any(axis=(1, 2)))
    two_balls.start_from(BALL)
    assert two_balls.counts()["points"] == 0
    assert two_balls.counts()["masks"] == 1
    two_balls.reset()
    assert two_balls.nbytes == 0
    assert math.isclose(sum(two_balls.counts().values()), 0)

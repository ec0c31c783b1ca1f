"""What clients send, as prompts on an image of 10 x 20 x 30 voxels."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from lib.sam.volume.interactions import Lasso, Scribble
from lib.server.http.errors import InteractionError
from lib.server.interactive.drawings import covered, places
from lib.server.nninteractive.container import pack, read
from lib.server.nninteractive.messages import (
    BoxMessage,
    DrawingMeta,
    ImageMeta,
    PointMessage,
    SegmentationMeta,
    TargetBuffer,
    mask_of,
)

SHAPE = (10, 20, 30)


def packed(array: np.ndarray):
    return read(pack(array), max_values=1 << 20)


@pytest.mark.parametrize(
    ("sent", "voxel"),
    [
        ([3, 4, 5], (3, 4, 5)),
        ([3.4, 4.6, 5.0], (3, 5, 5)),
        ([-7, 20, 1e300], (0, 19, 29)),
    ],
)
def test_a_point_is_rounded_and_brought_into_the_image(sent, voxel):
    point = PointMessage(coordinates=sent, include_interaction=False).prompt(SHAPE)
    assert (point.coordinates, point.is_foreground) == (voxel, False)


@pytest.mark.parametrize(
    ("sent", "bounds"),
    [
        ([[3, 4], [2, 9], [5, 6]], ((3, 4), (2, 9), (5, 6))),
        ([[3.0, 4.0], [2.3, 8.7], [5.6, 6.4]], ((3, 4), (2, 9), (6, 7))),
        ([[9, 10], [-20, 500], [29.4, 29.6]], ((9, 10), (0, 20), (29, 30))),
        ([[4.4, 4.6], [19.6, 19.9], [40, 50]], ((4, 5), (19, 20), (29, 30))),
    ],
)
def test_a_box_is_rounded_clipped_and_at_least_one_voxel_thick(sent, bounds):
    assert BoxMessage(bbox_coords=sent, include_interaction=True).prompt(SHAPE).bounds == bounds


_ENDS = st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))


@given(st.tuples(_ENDS, _ENDS, _ENDS))
@settings(deadline=None)
def test_any_box_lies_in_the_image_or_has_no_volume(sent):
    try:
        bounds = BoxMessage(bbox_coords=sent, include_interaction=True).prompt(SHAPE).bounds
    except InteractionError:
        assert any(low >= high for low, high in sent)
    else:
        assert all(0 <= low < high <= size for (low, high), size in zip(bounds, SHAPE, strict=True))


def test_a_drawing_lies_in_its_box_and_is_cut_to_what_it_covers():
    drawn = np.zeros((1, 6, 7), np.uint8)
    drawn[0, 2:4, 3] = 255
    meta = DrawingMeta(include_interaction=True, interaction_bbox=[[4.0, 5.0], [10, 16], [20, 27]])
    scribble = meta.prompt(Scribble, packed(drawn), SHAPE)
    assert isinstance(scribble, Scribble) and scribble.corner == (4, 12, 23)
    assert scribble.drawn.shape == (1, 2, 1) and scribble.drawn.dtype == bool and scribble.drawn.all()


def test_a_drawing_without_a_box_has_the_image_s_shape():
    drawn = np.zeros(SHAPE, np.float32)
    drawn[9, 19, 28:] = 0.5
    lasso = DrawingMeta(include_interaction=False).prompt(Lasso, packed(drawn), SHAPE)
    assert isinstance(lasso, Lasso) and (lasso.corner, lasso.drawn.shape) == ((9, 19, 28), (1, 1, 2))
    with pytest.raises(InteractionError, match=r"shape \[1, 6, 7\]; it must have \[10, 20, 30\]"):
        DrawingMeta(include_interaction=False).prompt(Lasso, packed(drawn[:1, :6, :7]), SHAPE)


def test_a_lasso_lies_in_one_plane_and_a_scribble_can_come_from_a_round_brush():
    drawn = np.zeros((2, 6, 7), np.uint8)
    drawn[0, 1:5, 1:5] = drawn[1, 2, 2] = 1
    meta = DrawingMeta(include_interaction=True, interaction_bbox=[[4, 6], [3, 9], [3, 10]])
    assert meta.prompt(Scribble, packed(drawn), SHAPE).drawn.shape == (2, 4, 4)
    with pytest.raises(InteractionError, match=r"\[2, 4, 4\] voxels, not in one plane"):
        meta.prompt(Lasso, packed(drawn), SHAPE)


def test_an_empty_drawing_is_one_voxel_that_is_not_drawn():
    meta = DrawingMeta(include_interaction=True, interaction_bbox=[[4, 6], [3, 9], [3, 9]])
    scribble = meta.prompt(Scribble, packed(np.zeros((2, 6, 6), np.uint8)), SHAPE)
    assert scribble.corner == (4, 3, 3) and scribble.drawn.shape == (1, 1, 1) and not scribble.drawn.any()


@pytest.mark.parametrize(
    "box",
    [[[4, 5], [18, 24], [3, 10]], [[-1, 0], [3, 9], [3, 10]], [[4, 4], [3, 9], [3, 10]], [[5, 4], [3, 9], [3, 10]]],
)
def test_a_drawing_is_not_clipped(box):
    meta = DrawingMeta(include_interaction=True, interaction_bbox=box)
    with pytest.raises(InteractionError, match="not inside the image"):
        meta.prompt(Lasso, packed(np.ones((1, 6, 7), np.uint8)), SHAPE)


def test_a_mask_is_what_is_not_zero():
    values = np.array([[[0.0, 0.25, -3.0, np.nan]]])
    assert mask_of(packed(values), (1, 1, 4)).tolist() == [[[False, True, True, True]]]


@given(st.integers(0, 2**24 - 1))
@settings(deadline=None)
def test_the_box_around_a_mask_is_tight(bits):
    mask = np.array([bits >> n & 1 for n in range(24)], bool).reshape(2, 3, 4)
    bounds = covered(mask)
    if bounds is None:
        assert not mask.any()
        return
    assert mask[places(bounds)].sum() == mask.sum()
    where = np.argwhere(mask)
    assert bounds == tuple(zip(where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist(), strict=True))


@pytest.mark.parametrize(
    ("meta", "spacing"),
    [
        ({}, (1, 1, 1)),
        ({"image_properties": {}}, (1, 1, 1)),
        ({"image_properties": {"spacing": None}}, (1, 1, 1)),
        ({"image_properties": {"spacing": [2.5, -0.7, 0]}}, (2.5, 0.7, 1)),
        ({"image_properties": {"spacing": [float("nan"), float("inf"), 3]}, "more": 1}, (1, 1, 3)),
    ],
)
def test_spacing_is_positive_and_1_where_it_is_not_known(meta, spacing):
    assert ImageMeta.model_validate_json(json.dumps(meta)).spacing == spacing


@pytest.mark.parametrize(
    "build",
    [
        lambda: PointMessage.model_validate_json('{"coordinates": [1, 2, NaN], "include_interaction": true}'),
        lambda: PointMessage.model_validate({"coordinates": [1, 2, 3]}),
        lambda: BoxMessage.model_validate({"bbox_coords": [[1, 2], [1, 2]], "include_interaction": True}),
        lambda: ImageMeta.model_validate({"image_properties": {"spacing": [1, 1]}}),
        lambda: TargetBuffer.model_validate({"shape": [1, 2, 0], "dtype": "uint8"}),
        lambda: TargetBuffer.model_validate({"shape": [1, 2, 3], "dtype": "float32"}),
        lambda: SegmentationMeta.model_validate_json("[]"),
        lambda: SegmentationMeta.model_validate_json("null"),
        lambda: SegmentationMeta.model_validate_json("[" * 100_000),
    ],
)
def test_what_cannot_be_meant_is_refused(build):
    with pytest.raises(ValidationError):
        build()

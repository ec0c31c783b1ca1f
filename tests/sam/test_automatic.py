from dataclasses import replace

import numpy as np
import pytest

from lib.sam.automatic import GridOptions, _without_hidden, segment_automatically
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Prediction, Predictor


@pytest.fixture(scope="module")
def make_tiny():
    """Makes a predictor of ``sam_tiny`` with other bounds than its own."""
    module = MODELS["sam_tiny"].build()
    CheckpointStore().load_into(module, MODELS["sam_tiny"])

    def make(**bounds: float) -> Predictor:
        spec = replace(MODELS["sam_tiny"], **bounds)
        return Predictor(spec, module, checkpoint_sha256="tiny", cache=EmbeddingCache(1 << 28))

    return make


@pytest.mark.slow
def test_finds_the_disc_unasked(make_tiny, disc):
    image, mask = disc
    tiny = make_tiny()
    found = segment_automatically(tiny, tiny.encode(image), GridOptions(points_per_side=8))
    dice = [2 * (p.masks[0] & mask).sum() / (p.masks[0].sum() + mask.sum()) for p in found]
    assert max(dice) > 0.8
    areas = [int(p.masks[0].sum()) for p in found]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("bounds", [{"min_score": 2.0}, {"min_stability": 2.0}])
def test_keeps_nothing_that_is_not_good_enough(make_tiny, disc, bounds):
    tiny = make_tiny(**bounds)
    assert segment_automatically(tiny, tiny.encode(disc[0]), GridOptions(points_per_side=2)) == []


def test_keeps_at_most_as_many_as_asked(make_tiny, disc):
    tiny = make_tiny(min_score=-1.0, min_stability=-1.0)
    options = GridOptions(points_per_side=8, max_objects=2)
    assert len(segment_automatically(tiny, tiny.encode(disc[0]), options)) == 2


def test_leaves_out_masks_that_are_too_small_or_too_large(make_tiny, disc):
    tiny = make_tiny(min_score=-1.0, min_stability=-1.0)
    options = GridOptions(points_per_side=6, min_area=0.05, max_area=0.4)
    found = segment_automatically(tiny, tiny.encode(disc[0]), options)
    assert found
    assert all(0.05 <= np.mean(prediction.masks) <= 0.4 for prediction in found)


def test_what_would_be_hidden_is_left_out():
    """Of three masks painted largest first, the middle one lies wholly under the smaller two."""

    def prediction(*columns: slice) -> Prediction:
        mask = np.zeros((1, 10, 20), bool)
        for part in columns:
            mask[0, :, part] = True
        return Prediction(packed=(PackedMask.of(mask[0]),), scores=np.ones(1), low_res_logits=np.zeros((1, 256, 256)))

    large, middle = prediction(slice(0, 20)), prediction(slice(2, 8))
    left, right = prediction(slice(2, 5)), prediction(slice(5, 8))
    kept = _without_hidden([large, middle, left, right], min_pixels=1)
    assert [id(p) for p in kept] == [id(large), id(left), id(right)]

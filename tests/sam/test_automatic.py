import numpy as np
import pytest

from lib.sam.automatic import GridOptions, segment_automatically
from lib.sam.checkpoints import CheckpointStore
from lib.sam.embeddings import EmbeddingCache
from lib.sam.predictor import Predictor
from lib.sam.registry import MODELS


@pytest.fixture(scope="module")
def tiny():
    spec = MODELS["sam_tiny"]
    module = spec.build()
    CheckpointStore().load_into(module, spec)
    return Predictor(spec, module, checkpoint_sha256="tiny", cache=EmbeddingCache(1 << 28))


def test_finds_the_disc_unasked(tiny, disc):
    image, mask = disc
    found = segment_automatically(tiny, tiny.encode(image), GridOptions(points_per_side=8, min_score=0.5))
    dice = [2 * (p.masks[0] & mask).sum() / (p.masks[0].sum() + mask.sum()) for p in found]
    assert max(dice) > 0.8
    areas = [int(p.masks[0].sum()) for p in found]
    assert areas == sorted(areas, reverse=True)


def test_keeps_nothing_that_is_not_good_enough(tiny, disc):
    assert segment_automatically(tiny, tiny.encode(disc[0]), GridOptions(points_per_side=2, min_score=1.01)) == []


def test_keeps_at_most_as_many_as_asked(tiny, disc):
    options = GridOptions(points_per_side=8, min_score=0.0, min_stability=0.0, max_objects=2)
    assert len(segment_automatically(tiny, tiny.encode(disc[0]), options)) == 2


def test_leaves_out_masks_that_are_too_small_or_too_large(tiny, disc):
    options = GridOptions(points_per_side=6, min_score=0.0, min_stability=0.0, min_area=0.05, max_area=0.4)
    for prediction in segment_automatically(tiny, tiny.encode(disc[0]), options):
        assert 0.05 <= np.mean(prediction.masks) <= 0.4

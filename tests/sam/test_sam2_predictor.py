"""SAM 2 in the engine against ``sam2.sam2_image_predictor.SAM2ImagePredictor``, the tiny Hiera with random weights.

By default for images of 512×512, as MedSAM2 is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.sam.automatic import GridOptions, segment_automatically
from lib.sam.prompts import Prompts
from support.sam2_checkpoint import CONFIG, overrides, upstream_configuration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),  # upstream's transforms
]

SHAPES = {"wide": (180, 400), "tall": (1500, 620)}


def an_image(shape: tuple[int, int]) -> np.ndarray:
    """Smooth blobs with some noise, ``(H, W, 3)`` uint8."""
    rng = np.random.default_rng(shape[0])
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows * rng.uniform(0.01, 0.06)) * np.cos(columns * rng.uniform(0.01, 0.06)) for _ in range(3)]
    image = 127 + 100 * np.stack(waves, axis=-1)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def peer(sam2, sam2_checkpoint):
    """As upstream builds and loads it, from the same file."""
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    with upstream_configuration():
        changes = overrides(sam2.spec)
        module = build_sam2(CONFIG, str(sam2_checkpoint), device="cpu", hydra_overrides_extra=changes)
    predictor = SAM2ImagePredictor(module)
    places = sam2.logits_side // 4
    predictor._bb_feat_sizes = [(4 * places,) * 2, (2 * places,) * 2, (places,) * 2]  # it has those of 1024 built in
    return predictor


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request, sam2, peer):
    image = an_image(SHAPES[request.param])
    peer.set_image(image)
    return peer, sam2, sam2.encode(image), image.shape[:2]


def test_embedding_is_the_peers(pair):
    peer, ours, embedding, size = pair
    without_memory = embedding.features + ours.module.no_mem_embed.view(1, -1, 1, 1)
    torch.testing.assert_close(without_memory, peer.get_image_embedding(), atol=1e-5, rtol=1e-5)
    for level, theirs in zip(embedding.finer, peer._features["high_res_feats"], strict=True):
        torch.testing.assert_close(level, theirs, atol=1e-5, rtol=1e-5)
    assert embedding.image_size == size
    places = (ours.logits_side // 4) ** 2
    assert embedding.nbytes == 4 * (256 + 32 * 16 + 64 * 4) * places


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["point", "points", "box", "box and points", "logits and point", "logits and box"])
def test_masks_scores_and_logits_are_the_peers(pair, kind, multimask):
    peer, ours, embedding, (height, width) = pair
    side = ours.logits_side
    points = labels = box = logits = None
    if "point" in kind:
        points = np.array([[width * 0.4, height * 0.6], [width * 0.9 - 1, 3], [0, height - 1]])
        labels = np.array([1, 0, 1])
        if not kind.endswith("points"):
            points, labels = points[:1], labels[:1]
    if "box" in kind:
        box = np.array([width * 0.2, height * 0.1, width * 0.7, height * 0.9])
    if "logits" in kind:
        logits = np.random.default_rng(1).normal(0, 3, (1, side, side)).astype(np.float32)

    masks, scores, low_res = peer.predict(points, labels, box, logits, multimask_output=multimask)
    prompts = Prompts(
        points=() if points is None else points,
        labels=() if labels is None else labels,
        box=box,
        mask_logits=None if logits is None else logits[0],
    )
    (prediction,) = ours.decode(embedding, [prompts], multimask=multimask)

    best_first = np.argsort(-scores, kind="stable")
    assert prediction.masks.shape == (3 if multimask else 1, height, width)
    np.testing.assert_allclose(prediction.low_res_logits, low_res[best_first], atol=1e-4)
    np.testing.assert_allclose(prediction.scores, scores[best_first], atol=1e-4)
    theirs = masks[best_first].astype(bool)
    assert (prediction.masks & theirs).sum() >= 0.999 * (prediction.masks | theirs).sum()
    assert 0 < theirs.mean() < 1, "an empty or full mask would show nothing"


def test_a_mask_alone_and_several_objects_at_once(pair):
    """What upstream has no call for: answers together are those of each alone."""
    _, ours, embedding, (height, width) = pair
    side = ours.logits_side
    logits = np.random.default_rng(2).normal(0, 3, (3, side, side)).astype(np.float32)
    objects = [Prompts(mask_logits=one) for one in logits]
    objects += [Prompts.from_clicks(box=[2, 3, width * share, height * share]) for share in (0.3, 0.6, 1.0)]
    together = ours.decode(embedding, objects)
    for prompts, prediction in zip(objects, together, strict=True):
        (alone,) = ours.decode(embedding, [prompts])
        np.testing.assert_allclose(prediction.low_res_logits, alone.low_res_logits, atol=1e-4)


def test_a_kept_answer_is_restored_and_large_logits_are_clipped_as_prompts(pair):
    _, ours, embedding, (height, width) = pair
    point = [[width // 2, height // 2]]
    (prediction,) = ours.decode(embedding, [Prompts.from_clicks(point)], multimask=True)
    restored = ours.restore(embedding.image_size, prediction.scores, prediction.low_res_logits)
    assert np.array_equal(restored.masks, prediction.masks)
    square = (ours.logits_side, ours.logits_side)
    beyond, bound = (np.full(square, value, dtype=np.float32) for value in (1000.0, 32.0))
    beyond, bound = ours.decode(embedding, [Prompts(mask_logits=beyond), Prompts(mask_logits=bound)])
    np.testing.assert_allclose(beyond.low_res_logits, bound.low_res_logits, atol=1e-4)


def test_the_logits_lie_on_the_whole_image(pair):
    _, ours, embedding, (height, width) = pair
    grid = ours.logits_grid(embedding.image_size)
    last = ours.logits_side - 1
    assert grid.shape == (last + 1, last + 1)
    assert grid.cell((width - 1, height - 1)) == (last, last)


def test_automatic_segmentation_runs_on_it(sam2):
    spec = replace(sam2.spec, min_score=0.0, min_stability=0.0)
    lenient = copy(sam2)
    lenient.spec = spec
    embedding = lenient.encode(an_image((300, 300)))
    found = segment_automatically(lenient, embedding, GridOptions(points_per_side=2, max_area=1.0))
    assert found
    assert all(prediction.masks.shape == (1, 300, 300) for prediction in found)

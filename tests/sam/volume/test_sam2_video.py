"""Following by SAM 2's memory against ``sam2.sam2_video_predictor.SAM2VideoPredictor``, with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume import sam2_video
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts
from lib.sam.volume.sam2_video import propagate_by_memory
from support.sam2_checkpoint import CONFIG, upstream_configuration

pytestmark = pytest.mark.slow

SLICES, SIZE = 4, 256
MARKED = Prompts.from_clicks([[120, 130]], [[20, 30]], box=[70, 80, 180, 190])


def frame(k: int) -> np.ndarray:
    """A disc that moves and grows from slice to slice, ``(256, 256, 3)`` uint8."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc = (columns - 110 - 6 * k) ** 2 + (rows - 130) ** 2 <= (30 + 5 * k) ** 2
    noise = np.random.default_rng(k).normal(0, 6, disc.shape)
    return np.repeat(np.clip(np.where(disc, 180, 70) + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def peer(sam2_checkpoint):
    """As upstream builds it, less the filling of holes, which takes a CUDA extension."""
    with upstream_configuration():
        from sam2.build_sam import build_sam2_video_predictor

        predictor = build_sam2_video_predictor(CONFIG, str(sam2_checkpoint), device="cpu")
    predictor.fill_hole_area = 0
    return predictor


def state_of_peer(peer, sam2, slices: int, monkeypatch) -> dict:
    """Upstream's inference state of the first slices.

    It gets them as the engine prepares them, in place of a folder of JPEG files, which would change them. As they are
    of 256 x 256 pixels, the masks' logits that it gives out are those of its decoder.
    """
    images = torch.cat([sam2._preprocessor.image(frame(k)) for k in range(slices)])
    monkeypatch.setattr("sam2.sam2_video_predictor.load_video_frames", lambda **_: (images, SIZE, SIZE))
    return peer.init_state("not read")


def of_peer(peer, sam2, marked: dict[int, Prompts], monkeypatch) -> dict[int, np.ndarray]:
    """Upstream's logits by slice: prompts, then up from the first marked slice, then down."""
    state = state_of_peer(peer, sam2, SLICES, monkeypatch)
    for k, prompts in marked.items():
        points = {"points": prompts.points, "labels": prompts.labels} if len(prompts.points) else {}
        peer.add_new_points_or_box(state, k, obj_id=1, box=prompts.box, **points)
    found = {}
    for in_reverse in (False, True):
        for k, _, logits in peer.propagate_in_video(state, reverse=in_reverse):
            found[k] = logits[0, 0].numpy()
    return found


def test_prompts_that_the_model_does_not_know_are_refused_in_a_volume_too(sam2, monkeypatch):
    monkeypatch.setattr(sam2, "spec", replace(sam2.spec, prompts=("box",)))
    with pytest.raises(PromptError, match="is for boxes alone, without points"):
        propagate_by_memory(sam2, frame, VolumePrompts({0: MARKED}, {}, range(SLICES)))


@pytest.mark.parametrize("slices", [(1,), (0, 2)])
def test_masks_are_the_peers(sam2, peer, slices, monkeypatch):
    marked = dict.fromkeys(slices, MARKED)
    marked[slices[0]] = Prompts.from_clicks([[120, 130]])
    theirs = of_peer(peer, sam2, marked, monkeypatch)
    result = propagate_by_memory(sam2, frame, VolumePrompts(marked, {}, range(SLICES)))

    assert list(result.found) == sorted(theirs) == list(range(SLICES))
    for k, found in result.found.items():
        mask = theirs[k] > 0
        np.testing.assert_allclose(found.logits, theirs[k], atol=5e-4, rtol=1e-3, err_msg=f"slice {k}")  # float16
        assert (found.mask & mask).sum() >= 0.999 * (found.mask | mask).sum()
        assert 0 < mask.mean() < 1, "an empty or full mask would show nothing"
        assert found.source == ("prompts" if k in marked else "followed")
        assert found.score > 0.5
    assert not np.array_equal(theirs[slices[0]], theirs[slices[0] + 1])
    assert [(stop.anchor, stop.k) for stop in result.stops] == [(slices[-1], SLICES), (slices[0], -1)]


def test_background_points_correct_a_mask_as_the_peers_do(sam2, peer, monkeypatch):
    state = state_of_peer(peer, sam2, 2, monkeypatch)
    peer.add_new_points_or_box(state, 0, obj_id=1, box=MARKED.box, points=MARKED.points, labels=MARKED.labels)
    uncorrected = {k: logits[0, 0].numpy() for k, _, logits in peer.propagate_in_video(state)}
    point = np.array([[200.0, 40.0]])
    _, _, corrected = peer.add_new_points_or_box(state, 1, obj_id=1, points=point, labels=[0])

    result = propagate_by_memory(sam2, frame, VolumePrompts({0: MARKED}, {1: point}, range(2)))
    assert result.found[1].source == "prompts"
    np.testing.assert_allclose(result.found[1].logits, corrected[0, 0].numpy(), atol=5e-4, rtol=1e-3)
    assert np.abs(corrected[0, 0].numpy() - uncorrected[1]).max() > 0.01


def disc_logits() -> np.ndarray:
    return np.where(frame(1)[..., 0] > 125, 10.0, -10.0)


def test_a_mask_alone_is_taken_as_it_is_and_following_goes_no_farther_than_asked(sam2):
    marked = {1: Prompts(mask_logits=disc_logits())}
    prompts = VolumePrompts(marked, {}, range(SLICES))
    result = propagate_by_memory(sam2, frame, prompts, PropagationOptions(max_slices=0))
    assert list(result.found) == [1]
    mask, asked = result.found[1].mask, disc_logits() > 0
    assert (mask & asked).sum() > 0.98 * (mask | asked).sum()
    assert [(stop.k, stop.reason) for stop in result.stops] == [(2, "max_slices"), (0, "max_slices")]


def test_an_object_that_is_not_found_any_more_has_ended(sam2, monkeypatch):
    monkeypatch.setattr(sam2_video, "_MAX_ABSENT_SLICES", 2)
    decode = sam2.runtime.decode

    def sees_nothing(*prompts):
        masks, scores, tokens, presence = decode(*prompts)
        return masks, scores, tokens, presence - 100

    monkeypatch.setattr(sam2.runtime, "decode", sees_nothing)
    prompts = VolumePrompts({0: Prompts(mask_logits=disc_logits())}, {}, range(SLICES))
    result = propagate_by_memory(sam2, frame, prompts)
    assert list(result.found) == [0]
    assert [(stop.k, stop.reason) for stop in result.stops] == [(1, "nothing found"), (-1, "end of slices")]

    nothing = propagate_by_memory(sam2, frame, VolumePrompts({0: MARKED}, {}, range(SLICES)))
    assert (dict(nothing.found), nothing.stops) == ({}, ())


def test_the_clock_and_the_slices_size_are_respected(sam2):
    with use_clock(Clock(0)), pytest.raises(TimeLimitError):
        propagate_by_memory(sam2, frame, VolumePrompts({0: MARKED}, {}, range(SLICES)))
    outside = VolumePrompts({0: Prompts.from_clicks([[SIZE, 3]])}, {}, range(SLICES))
    with pytest.raises(PromptError, match="outside the image"):
        propagate_by_memory(sam2, frame, outside)

"""Following by SAM 2's memory against ``sam2.sam2_video_predictor.SAM2VideoPredictor``, with random weights.

By default for images of 512×512, as MedSAM2 is. Slices are as large as the decoder's logits, so that both give out
those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume import sam2_video
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts
from lib.sam.volume.sam2_video import propagate_by_memory
from support.sam2_checkpoint import CONFIG, overrides, upstream_configuration

pytestmark = pytest.mark.slow

SLICES = 4
Frame = Callable[[int], np.ndarray]


@pytest.fixture(scope="module")
def unit(sam2) -> float:
    """Pixels: a 256th of a slice's side."""
    return sam2.logits_side / 256


@pytest.fixture(scope="module")
def frame(sam2, unit) -> Frame:
    """A disc that moves and grows from slice to slice, ``(S, S, 3)`` uint8."""

    def disc(k: int) -> np.ndarray:
        rows, columns = np.mgrid[: sam2.logits_side, : sam2.logits_side] / unit
        inside = (columns - 110 - 6 * k) ** 2 + (rows - 130) ** 2 <= (30 + 5 * k) ** 2
        noise = np.random.default_rng(k).normal(0, 6, inside.shape)
        return np.repeat(np.clip(np.where(inside, 180, 70) + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    return disc


@pytest.fixture(scope="module")
def marked(unit) -> Prompts:
    return Prompts.from_clicks(
        [[120 * unit, 130 * unit]], [[20 * unit, 30 * unit]], box=np.array([70, 80, 180, 190]) * unit
    )


@pytest.fixture(scope="module")
def peer(sam2, sam2_checkpoint):
    """As upstream builds it, less the filling of holes, which takes a CUDA extension."""
    with upstream_configuration():
        from sam2.build_sam import build_sam2_video_predictor

        changes = overrides(sam2.spec)
        path = str(sam2_checkpoint)
        predictor = build_sam2_video_predictor(CONFIG, path, device="cpu", hydra_overrides_extra=changes)
    predictor.fill_hole_area = 0
    return predictor


def state_of_peer(peer, sam2, frame: Frame, slices: int, monkeypatch) -> dict:
    """Upstream's inference state of the first slices.

    It gets them as the engine prepares them, in place of a folder of JPEG files, which would change them.
    """
    images = torch.cat([sam2.preprocessor.image(frame(k)) for k in range(slices)])
    monkeypatch.setattr(
        "sam2.sam2_video_predictor.load_video_frames", lambda **_: (images, sam2.logits_side, sam2.logits_side)
    )
    return peer.init_state("not read")


def of_peer(peer, sam2, frame: Frame, marked: dict[int, Prompts], monkeypatch) -> dict[int, np.ndarray]:
    """Upstream's logits by slice: prompts, then up from the first marked slice, then down."""
    state = state_of_peer(peer, sam2, frame, SLICES, monkeypatch)
    for k, prompts in marked.items():
        points = {"points": prompts.points, "labels": prompts.labels} if len(prompts.points) else {}
        peer.add_new_points_or_box(state, k, obj_id=1, box=prompts.box, **points)
    found = {}
    for in_reverse in (False, True):
        for k, _, logits in peer.propagate_in_video(state, reverse=in_reverse):
            found[k] = logits[0, 0].numpy()
    return found


def test_prompts_that_the_model_does_not_know_are_refused_in_a_volume_too(sam2, frame, marked, monkeypatch):
    monkeypatch.setattr(sam2, "spec", replace(sam2.spec, prompts=("box",)))
    with pytest.raises(PromptError, match="is for boxes alone, without points"):
        propagate_by_memory(sam2, frame, VolumePrompts({0: marked}, {}, range(SLICES)))


@pytest.mark.parametrize("slices", [(1,), (0, 2)])
def test_masks_are_the_peers(sam2, peer, frame, marked, unit, slices, monkeypatch):
    prompts = dict.fromkeys(slices, marked)
    prompts[slices[0]] = Prompts.from_clicks([[120 * unit, 130 * unit]])
    theirs = of_peer(peer, sam2, frame, prompts, monkeypatch)
    result = propagate_by_memory(sam2, frame, VolumePrompts(prompts, {}, range(SLICES)))

    assert list(result.found) == sorted(theirs) == list(range(SLICES))
    for k, found in result.found.items():
        mask = theirs[k] > 0
        np.testing.assert_allclose(found.logits, theirs[k], atol=5e-4, rtol=1e-3, err_msg=f"slice {k}")  # float16
        assert (found.mask & mask).sum() >= 0.999 * (found.mask | mask).sum()
        assert 0 < mask.mean() < 1, "an empty or full mask would show nothing"
        assert found.source == ("prompts" if k in prompts else "followed")
        assert found.score > 0.5
    assert not np.array_equal(theirs[slices[0]], theirs[slices[0] + 1])
    assert [(stop.anchor, stop.k) for stop in result.stops] == [(slices[-1], SLICES), (slices[0], -1)]


def test_background_points_correct_a_mask_as_the_peers_do(sam2, peer, frame, marked, unit, monkeypatch):
    state = state_of_peer(peer, sam2, frame, 2, monkeypatch)
    peer.add_new_points_or_box(state, 0, obj_id=1, box=marked.box, points=marked.points, labels=marked.labels)
    uncorrected = {k: logits[0, 0].numpy() for k, _, logits in peer.propagate_in_video(state)}
    point = np.array([[200.0, 40.0]]) * unit
    _, _, corrected = peer.add_new_points_or_box(state, 1, obj_id=1, points=point, labels=[0])

    result = propagate_by_memory(sam2, frame, VolumePrompts({0: marked}, {1: point}, range(2)))
    assert result.found[1].source == "prompts"
    np.testing.assert_allclose(result.found[1].logits, corrected[0, 0].numpy(), atol=5e-4, rtol=1e-3)
    assert np.abs(corrected[0, 0].numpy() - uncorrected[1]).max() > 0.01


def disc_logits(frame: Frame) -> np.ndarray:
    return np.where(frame(1)[..., 0] > 125, 10.0, -10.0)


def test_a_mask_alone_is_taken_as_it_is_and_following_goes_no_farther_than_asked(sam2, frame):
    alone = {1: Prompts(mask_logits=disc_logits(frame))}
    prompts = VolumePrompts(alone, {}, range(SLICES))
    result = propagate_by_memory(sam2, frame, prompts, PropagationOptions(max_slices=0))
    assert list(result.found) == [1]
    mask, asked = result.found[1].mask, disc_logits(frame) > 0
    assert (mask & asked).sum() > 0.98 * (mask | asked).sum()
    assert [(stop.k, stop.reason) for stop in result.stops] == [(2, "max_slices"), (0, "max_slices")]


def test_an_object_that_is_not_found_any_more_has_ended(sam2, frame, marked, monkeypatch):
    monkeypatch.setattr(sam2_video, "_MAX_ABSENT_SLICES", 2)
    decode = sam2.runtime.decode

    def sees_nothing(*prompts):
        masks, scores, tokens, presence = decode(*prompts)
        return masks, scores, tokens, presence - 100

    monkeypatch.setattr(sam2.runtime, "decode", sees_nothing)
    prompts = VolumePrompts({0: Prompts(mask_logits=disc_logits(frame))}, {}, range(SLICES))
    result = propagate_by_memory(sam2, frame, prompts)
    assert list(result.found) == [0]
    assert [(stop.k, stop.reason) for stop in result.stops] == [(1, "nothing found"), (-1, "end of slices")]

    nothing = propagate_by_memory(sam2, frame, VolumePrompts({0: marked}, {}, range(SLICES)))
    assert (dict(nothing.found), nothing.stops) == ({}, ())


def test_the_clock_and_the_slices_size_are_respected(sam2, frame, marked):
    with use_clock(Clock(0)), pytest.raises(TimeLimitError):
        propagate_by_memory(sam2, frame, VolumePrompts({0: marked}, {}, range(SLICES)))
    outside = VolumePrompts({0: Prompts.from_clicks([[sam2.logits_side, 3]])}, {}, range(SLICES))
    with pytest.raises(PromptError, match="outside the image"):
        propagate_by_memory(sam2, frame, outside)

"""After a correction, SAM 2 follows the object again only where that can change its masks; nothing is encoded again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.memory_form import MEMORY_ATTENTION
from lib.sam.strokes import lasso_prompts
from lib.sam.volume import sam2_video
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts
from lib.sam.volume.result import SliceMask
from lib.sam.volume.sam2_video import RememberedResult, propagate_by_memory

pytestmark = pytest.mark.slow

SLICES = 9
BOX, OTHER_BOX = Prompts.from_clicks(box=[18, 20, 40, 44]), Prompts.from_clicks(box=[4, 30, 60, 60])
CORNER = np.array([[60.0, 3.0]])


def frame(k: int) -> np.ndarray:
    """A disc that moves, ``(64, 64, 3)`` uint8."""
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(columns - 24 - k, rows - 32) < 12
    return np.repeat(np.where(disc, 180, 60).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def work(medsam2: Predictor, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often an image was encoded, and the memory was read to follow the object to a slice."""
    counts: Counter[str] = Counter()
    runtime = medsam2.runtime
    encode, compute = runtime.encode, runtime.compute

    def counted_encode(*arguments):
        counts["encoded"] += 1
        return encode(*arguments)

    def counted_compute(network, *inputs):
        counts["followed"] += network == MEMORY_ATTENTION
        return compute(network, *inputs)

    monkeypatch.setattr(runtime, "encode", counted_encode)
    monkeypatch.setattr(runtime, "compute", counted_compute)
    return counts


@pytest.fixture(scope="module")
def first(medsam2: Predictor) -> RememberedResult:
    return propagate_by_memory(medsam2, frame, VolumePrompts({1: BOX}, {}, range(SLICES)))


def corrected(
    medsam2: Predictor,
    first: RememberedResult,
    marked: Mapping[int, Prompts],
    background: Mapping[int, np.ndarray] | None = None,
) -> RememberedResult:
    prompts = VolumePrompts(marked, background or {}, range(SLICES))
    return propagate_by_memory(medsam2, frame, prompts, earlier=first)


def changed(first: RememberedResult, result: RememberedResult) -> list[int]:
    return [k for k in range(SLICES) if first.found.get(k) is not result.found.get(k)]


def test_the_same_prompts_cost_nothing(medsam2, first, work):
    again = corrected(medsam2, first, {1: BOX})
    assert not work
    assert dict(again.found) == dict(first.found) and again.stops == first.stops
    assert list(first.found) == list(range(SLICES)), "random weights find something on every slice"


def test_following_ends_where_the_masks_are_as_before(medsam2, first, work, monkeypatch):
    monkeypatch.setattr(sam2_video, "_SAME_DICE", 0.0)  # all count as the same
    result = corrected(medsam2, first, {1: BOX, 5: OTHER_BOX})
    assert work == {"followed": 4}
    assert changed(first, result) == [3, 4, 5, 6, 7]
    assert result.found[5].source == "prompts" and result.stops == first.stops


@pytest.mark.long
def test_while_they_change_it_goes_to_the_next_prompted_slice_and_to_the_end(medsam2, first, work, monkeypatch):
    monkeypatch.setattr(sam2_video, "_SAME_DICE", 1.1)  # none counts as the same
    result = corrected(medsam2, first, {1: BOX, 5: OTHER_BOX})
    assert work == {"followed": 6}
    assert changed(first, result) == [2, 3, 4, 5, 6, 7, 8]
    work.clear()
    once_more = corrected(medsam2, result, {1: BOX, 5: OTHER_BOX}, {7: CORNER})
    assert once_more.found[7].source == "prompts"
    assert changed(result, once_more) == [6, 7, 8]
    assert work == {"followed": 3} and [stop.reason for stop in once_more.stops] == ["end of slices"] * 2


@pytest.mark.long
def test_other_prompts_on_the_only_marked_slice_give_what_they_give_anew(medsam2, first, work, monkeypatch):
    monkeypatch.setattr(sam2_video, "_SAME_DICE", 1.1)
    prompts = VolumePrompts({1: OTHER_BOX}, {}, range(SLICES))
    anew = propagate_by_memory(medsam2, frame, prompts)
    result = propagate_by_memory(medsam2, frame, prompts, earlier=first)
    assert work == {"followed": 2 * (SLICES - 1)}
    for k in range(1, SLICES):
        np.testing.assert_array_equal(result.found[k].logits, anew.found[k].logits)
    assert not np.array_equal(result.found[4].logits, first.found[4].logits)


@pytest.mark.long
def test_prompts_that_are_gone_and_other_rules_follow_the_object_anew(medsam2, first, work):
    result = corrected(medsam2, first, {2: BOX})
    assert work == {"followed": SLICES - 1}
    assert changed(first, result) == list(range(SLICES))
    work.clear()
    prompts = VolumePrompts({1: BOX}, {}, range(SLICES))
    near = propagate_by_memory(medsam2, frame, prompts, PropagationOptions(max_slices=1), earlier=first)
    assert list(near.found) == [0, 1, 2] and work == {"followed": 2}
    work.clear()
    farther = VolumePrompts({1: BOX, 3: OTHER_BOX}, {}, range(SLICES))
    wider = propagate_by_memory(medsam2, frame, farther, PropagationOptions(max_slices=1), earlier=near)
    assert list(wider.found) == [0, 1, 2, 3, 4]
    assert [(stop.anchor, stop.k) for stop in wider.stops] == [(3, 5), (1, -1)]
    assert work == {"followed": 2}


def test_an_object_that_ends_sooner_after_a_correction_is_not_found_beyond(medsam2, first, monkeypatch):
    monkeypatch.setattr(sam2_video, "_MAX_ABSENT_SLICES", 2)
    decode = medsam2.runtime.decode
    seen = iter([0.0] + [-100.0] * 9)  # the object is on the marked slice alone

    def sees_no_more(*prompts):
        masks, scores, tokens, presence = decode(*prompts)
        return masks, scores, tokens, presence + next(seen)

    monkeypatch.setattr(medsam2.runtime, "decode", sees_no_more)
    result = corrected(medsam2, first, {1: OTHER_BOX})
    assert list(result.found) == [1]
    assert result.stops[0].k == 2 and result.stops[0].reason == "nothing found"


def test_what_there_was_no_time_for_is_followed_by_the_next_call(medsam2, first):
    prompts = VolumePrompts({1: BOX}, {}, range(SLICES))
    part = propagate_by_memory(medsam2, frame, prompts, until=0.0)
    assert list(part.found) == [1] and not part.is_complete
    rest = propagate_by_memory(medsam2, frame, prompts, earlier=part)
    assert rest.is_complete
    assert all(np.array_equal(rest.found[k].mask, first.found[k].mask) for k in range(SLICES))


@pytest.mark.long
def test_a_mask_to_start_from_stays_where_what_is_found_fits_it(medsam2, first):
    """Following from a box on slice 4 ends at once where the mask there is what is found anyhow."""
    prompts = VolumePrompts({4: BOX}, {}, range(SLICES))
    alone = propagate_by_memory(medsam2, frame, prompts)
    grid = medsam2.logits_grid((64, 64))
    start = {k: SliceMask.of(one.mask, grid) for k, one in alone.found.items()}
    result = propagate_by_memory(medsam2, frame, VolumePrompts({4: BOX}, {}, range(SLICES), start))
    assert {k: one.source for k, one in result.found.items()} == {k: "prompts" if k == 4 else "start" for k in start}
    assert [stop.reason for stop in result.stops] == ["as at the start"] * 2


def test_points_take_away_from_a_mask_to_start_from_only_near_them(medsam2):
    mask = frame(4)[..., 0] > 100
    mask[50:60, 4:14] = True
    start = {4: SliceMask.of(mask, medsam2.logits_grid((64, 64)))}
    background = {4: np.array([[8.0, 55.0]])}
    result = propagate_by_memory(medsam2, frame, VolumePrompts({}, background, range(4, 5), start))
    now = result.found[4].mask
    assert not (now & ~mask).any()
    assert (now & mask)[:45].sum() > 0.9 * mask[:45].sum()


@pytest.mark.long
def test_a_lasso_bounds_the_mask_on_its_slice_and_its_core_is_the_object(medsam2):
    rows, columns = np.mgrid[:64, :64]
    area = np.hypot(columns - 27, rows - 32) < 13
    lasso = lasso_prompts(area, medsam2.spec.prompts)
    within = propagate_by_memory(medsam2, frame, VolumePrompts({3: lasso}, {}, range(SLICES))).found
    plain = propagate_by_memory(medsam2, frame, VolumePrompts({3: replace(lasso, encloses=False)}, {}, range(SLICES)))
    near = np.hypot(columns - 27, rows - 32) < 16
    assert (plain.found[3].mask & ~near).any(), "random weights know no bounds"
    assert not (within[3].mask & ~near).any() and within[3].mask[32, 27]
    assert all(np.array_equal(within[k].packed, plain.found[k].packed) for k in range(SLICES) if k != 3)

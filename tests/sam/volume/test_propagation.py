"""Following an object through a volume, with the bundled model and solids of known shape."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from bench.solids import SolidVolume, ellipsoid, tube, union, volume
from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.imaging.image import MedicalImage
from lib.sam.engine import Engine
from lib.sam.logits_grid import innermost
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts, propagate
from lib.sam.volume.result import VolumeResult
from lib.transforms.masks import ResultToVolumed

CLICK = Prompts.from_clicks([[5, 5]])
POINTS = np.array([[2.0, 3.0]])


class Counter:
    """Counts what a predictor is asked for, and the slices that are read."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decodes = 0
        self.slices: list[int] = []
        decode = predictor.decode

        def counted(*args, **kwargs):
            self.decodes += 1
            return decode(*args, **kwargs)

        monkeypatch.setattr(predictor, "decode", counted)

    def reset(self) -> None:
        self.decodes, self.slices = 0, []


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


@pytest.fixture
def counter(predictor, monkeypatch) -> Counter:
    return Counter(predictor, monkeypatch)


@pytest.fixture(scope="module")
def egg() -> SolidVolume:
    """On slices 5 to 18 of 24, each 4 mm thick."""
    return volume("egg", ellipsoid((60, 58, 46), (26, 20, 28)), thickness=4.0)


@pytest.fixture(scope="module")
def fork() -> SolidVolume:
    """A tube that comes in as one and leaves as two."""
    trunk = [(70, 60, 8), (72, 58, 48)]
    arms = tube([*trunk, (46, 54, 88)], 9), tube([*trunk, (100, 62, 88)], 8)
    return volume("fork", union(*arms), thickness=4.0, value=180.0)


def run(
    predictor: Predictor,
    solid: SolidVolume,
    marked: Mapping[int, Prompts],
    background: Mapping[int, np.ndarray] | None = None,
    *,
    options: PropagationOptions | None = None,
    earlier: VolumeResult | None = None,
    counter: Counter | None = None,
    until: float = math.inf,
) -> VolumeResult:
    pictures = np.repeat(np.clip(solid.frames, 0, 255).astype(np.uint8)[..., None], 3, axis=3)

    def frame(k: int) -> np.ndarray:
        if counter is not None:
            counter.slices.append(k)
        return pictures[k]

    prompts = VolumePrompts(marked, background or {}, range(len(pictures)))
    return propagate(predictor, frame, prompts, options, earlier=earlier, until=until)


def click(solid: SolidVolume, k: int) -> Prompts:
    row, column = innermost(solid.truth[k])
    return Prompts.from_clicks([[column, row]])


def tight_box(solid: SolidVolume, k: int) -> Prompts:
    rows, columns = np.nonzero(solid.truth[k])
    return Prompts.from_clicks(box=[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def labels(result: VolumeResult, solid: SolidVolume) -> np.ndarray:
    data = {"volume_result": result, "image": MedicalImage(frames=solid.frames)}
    return np.asarray(ResultToVolumed()(data)["pred"]) > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def slices_of(solid: SolidVolume) -> np.ndarray:
    return np.flatnonzero(solid.truth.any(axis=(1, 2)))


def test_both_directions_are_followed_at_the_same_time(predictor, egg):
    pictures = np.repeat(np.clip(egg.frames, 0, 255).astype(np.uint8)[..., None], 3, axis=3)
    both_are_there = threading.Barrier(2, timeout=60)

    def frame(k: int) -> np.ndarray:
        if abs(k - egg.middle) == 1:
            both_are_there.wait()
        return pictures[k]

    prompts = VolumePrompts({egg.middle: click(egg, egg.middle)}, {}, range(len(pictures)))
    assert len(propagate(predictor, frame, prompts).found) > 10


@pytest.mark.parametrize("prompt", [click, tight_box])
def test_an_ellipsoid_from_its_middle_slice(predictor, egg, counter, prompt):
    result = run(predictor, egg, {egg.middle: prompt(egg, egg.middle)}, counter=counter)
    found, true = sorted(result.found), slices_of(egg)
    assert dice(labels(result, egg), egg.truth) > 0.93
    assert found[0] >= true[0] - 2 and found[-1] <= true[-1] + 2, "it leaks past the object's ends"
    assert found == list(range(found[0], found[-1] + 1))
    assert len(result.stops) == 2 and all(stop.reason != "end of slices" for stop in result.stops)
    assert set(counter.slices) == set(range(found[0] - 1, found[-1] + 2)), "slices that were not reached were read"


@pytest.mark.parametrize(("kinds", "least"), [(("point", "box"), 0.85), (("point",), 0.6), (("box",), 0.85)])
def test_it_is_followed_by_the_kinds_of_prompts_that_the_model_knows(predictor, egg, monkeypatch, kinds, least):
    monkeypatch.setattr(predictor, "spec", replace(predictor.spec, prompts=kinds))
    asked = tight_box(egg, egg.middle) if "box" in kinds else click(egg, egg.middle)
    result = run(predictor, egg, {egg.middle: asked})
    assert dice(labels(result, egg), egg.truth) > least


def test_background_points_correct_also_without_an_earlier_mask(predictor, egg, monkeypatch):
    monkeypatch.setattr(predictor, "spec", replace(predictor.spec, prompts=("point", "box")))
    inside = click(egg, 12).points
    result = run(predictor, egg, {11: tight_box(egg, 11)}, {12: inside})
    x, y = inside[0].astype(int)
    assert result.found[12].source == "prompts" and not result.found[12].mask[y, x]


def test_a_branching_tube_keeps_both_branches(predictor, fork):
    result = run(predictor, fork, {2: click(fork, 2)})
    assert dice(labels(result, fork), fork.truth) > 0.9
    last = labels(result, fork)[21]
    assert last[:, :75].any() and last[:, 75:].any()


def test_it_stops_at_the_ends_of_the_volume(predictor):
    rod = volume("rod", tube([(70, 60, -20), (75, 60, 120)], 14), thickness=12.0, value=180.0)
    result = run(predictor, rod, {4: tight_box(rod, 4)})
    assert sorted(result.found) == list(range(8))
    assert sorted((stop.k, stop.reason) for stop in result.stops) == [(-1, "end of slices"), (8, "end of slices")]


def test_one_slice(predictor, egg):
    solid = SolidVolume("one", egg.frames[12:13], egg.truth[12:13])
    result = run(predictor, solid, {0: tight_box(solid, 0)})
    assert list(result.found) == [0] and dice(labels(result, solid), solid.truth) > 0.93


@pytest.mark.parametrize("marked", [(11,), (6, 17)], ids=["beyond one slice", "between two"])
def test_with_little_time_it_goes_on_where_it_ended(predictor, egg, marked):
    """Each call has the time for a slice or two: none may begin anew."""
    prompts = {k: tight_box(egg, k) for k in marked}
    whole = run(predictor, egg, prompts)
    part = run(predictor, egg, prompts, until=time.monotonic())
    assert not part.is_complete and list(part.found) == list(marked)
    calls = 0
    while not part.is_complete:
        before, calls = set(part.found), calls + 1
        part = run(predictor, egg, prompts, earlier=part, until=time.monotonic() + 0.1)
        assert before <= set(part.found) and calls < 60
    assert calls > 1 and part.found.keys() == whole.found.keys() and part.stops == whole.stops
    assert all(np.array_equal(part.found[k].packed, whole.found[k].packed) for k in whole.found)


def test_max_slices_is_by_direction(predictor, egg):
    result = run(predictor, egg, {11: tight_box(egg, 11)}, options=PropagationOptions(max_slices=2))
    assert list(result.found) == [9, 10, 11, 12, 13]
    assert sorted((stop.k, stop.reason) for stop in result.stops) == [(8, "max_slices"), (14, "max_slices")]


def test_between_prompted_slices_every_slice_holds(predictor, egg):
    marked = {8: tight_box(egg, 8), 15: tight_box(egg, 15)}
    result = run(predictor, egg, marked, options=PropagationOptions(max_slices=0))
    assert list(result.found) == list(range(8, 16)), "max_slices is for the slices beyond them"
    assert {k: found.source for k, found in result.found.items()} == {
        **dict.fromkeys(range(9, 15), "blended"),
        **dict.fromkeys((8, 15), "prompts"),
    }
    assert dice(labels(result, egg)[8:16], egg.truth[8:16]) > 0.95


def test_a_point_that_changes_little_is_followed_no_farther_than_its_change(predictor, egg, counter):
    first = run(predictor, egg, {11: tight_box(egg, 11)})
    again = run(predictor, egg, {11: tight_box(egg, 11), 12: click(egg, 12)}, earlier=first, counter=counter)
    assert set(counter.slices) <= set(range(8, 16)), "of slices 5 to 18"
    fresh = run(predictor, egg, {11: tight_box(egg, 11), 12: click(egg, 12)})
    assert dice(labels(again, egg), labels(fresh, egg)) > 0.98
    assert [stop.k for stop in again.stops] == [stop.k for stop in fresh.stops]


def test_a_correction_follows_anew_only_beside_it(predictor, egg, counter):
    marked = {8: tight_box(egg, 8), 11: tight_box(egg, 11), 15: tight_box(egg, 15)}
    first = run(predictor, egg, marked, counter=counter)
    all_decodes = counter.decodes

    counter.reset()
    again = run(predictor, egg, marked, earlier=first, counter=counter)
    assert counter.decodes == 0 and counter.slices == []
    assert np.array_equal(labels(again, egg), labels(first, egg))

    box = marked[15].box
    corrected = {**marked, 15: Prompts.from_clicks([[60, 58]], box=box)}
    later = run(predictor, egg, corrected, earlier=first, counter=counter)
    assert 0 < counter.decodes < all_decodes and min(counter.slices) == 11, "it is followed from slice 11 on"
    assert np.array_equal(labels(later, egg)[:12], labels(first, egg)[:12])

    counter.reset()
    fresh = run(predictor, egg, corrected, counter=counter)
    assert dice(labels(fresh, egg), labels(later, egg)) > 0.99, "what is kept changes no result by more than a border"
    assert min(counter.slices) < 8


def test_other_options_take_nothing_over(predictor, egg, counter):
    marked = {11: tight_box(egg, 11)}
    first = run(predictor, egg, marked, options=PropagationOptions(max_slices=1))
    counter.reset()
    second = run(predictor, egg, marked, options=PropagationOptions(max_slices=2), earlier=first, counter=counter)
    assert list(second.found) == [9, 10, 11, 12, 13] and counter.decodes > 0


@pytest.mark.slow
def test_a_point_where_the_object_was_found_refines_the_mask_there(predictor, egg, counter):
    box, k = {egg.middle: tight_box(egg, egg.middle)}, egg.middle + 4
    before = run(predictor, egg, box)
    point = Prompts.from_clicks([[62, 52]])
    after = run(predictor, egg, {**box, k: point}, earlier=before, counter=counter)
    alone = run(predictor, egg, {k: point})
    truth = egg.truth[k]
    assert after.found[k].source == "prompts" and dice(after.found[k].mask, truth) > 0.95
    assert dice(after.found[k].mask, truth) > dice(alone.found[k].mask, truth), "it needs nothing to refine here"
    assert min(counter.slices) == egg.middle, "what the point does not change was followed anew"
    fresh = run(predictor, egg, {**box, k: point})
    assert np.array_equal(labels(fresh, egg), labels(after, egg)), "it depends on what was kept"


def test_another_object_of_the_same_grey_value_that_runs_into_it_is_left_out(predictor):
    rod, other = tube([(60, 60, -20), (60, 60, 120)], 14), tube([(90, 60, 40), (76, 60, 60), (90, 60, 80)], 13)
    both = volume("both", union(rod, other), thickness=6.0, value=180.0)
    alone = volume("rod", rod, thickness=6.0, value=180.0)
    result = run(predictor, both, {3: tight_box(alone, 3)})
    assert not any(found.mask[60, 88] for found in result.found.values())


def test_background_points_where_it_leaked(predictor, counter):
    """Two rods of the same grey value that touch, in one box: a point on one takes it away, there and beyond."""
    rod, other = tube([(60, 60, -20), (60, 60, 120)], 14), tube([(90, 60, -20), (76, 60, 60), (90, 60, 120)], 13)
    both = volume("both", union(rod, other), thickness=6.0, value=180.0)
    alone = volume("rod", rod, thickness=6.0, value=180.0)
    marked = {3: tight_box(both, 3)}
    first = run(predictor, both, marked, counter=counter)
    assert first.found[10].mask[60, 84], "the phantom does not leak, so that there is nothing to correct"
    counter.reset()
    second = run(predictor, both, marked, {10: np.array([[84.0, 60.0]])}, earlier=first, counter=counter)
    assert not second.found[10].mask[60, 84] and second.found[10].source == "prompts"
    before, after = (dice(labels(result, both)[10:], alone.truth[10:]) for result in (first, second))
    assert before < 0.75 < 0.9 < after
    assert min(counter.slices) == 3, "slices on the other side of the prompt were followed anew"
    assert np.array_equal(labels(second, both)[:3], labels(first, both)[:3])
    fresh = run(predictor, both, marked, {10: np.array([[84.0, 60.0]])})
    assert np.array_equal(labels(fresh, both), labels(second, both)), "what is kept changes no result"


@pytest.mark.parametrize("k", [1, 12])
def test_background_points_beside_the_mask_change_nothing(predictor, egg, k):
    marked = {11: tight_box(egg, 11)}
    plain = run(predictor, egg, marked)
    result = run(predictor, egg, marked, {k: np.array([[20.0, 20.0]])})
    assert np.array_equal(labels(result, egg), labels(plain, egg))


def test_an_empty_mask_is_not_followed(predictor, egg, monkeypatch):
    decode = predictor.decode

    def nothing(*args, **kwargs):
        predictions = decode(*args, **kwargs)
        predictions[0].low_res_logits[:] = -1
        return predictions

    monkeypatch.setattr(predictor, "decode", nothing)
    result = run(predictor, egg, {11: click(egg, 11)})
    assert not result.found and not labels(result, egg).any() and result.stops == ()


@pytest.mark.parametrize(
    ("marked", "background", "said"),
    [
        ({}, {}, "nothing marks"),
        ({}, {1: np.zeros((1, 2))}, "nothing marks"),
        ({3: CLICK}, {9: np.zeros((1, 2))}, "[9]"),
    ],
)
def test_prompts_that_mark_nothing_or_lie_outside(marked, background, said):
    with pytest.raises(PromptError, match=re.escape(said)):
        VolumePrompts(marked, background, range(5))


def test_the_time_limit_holds(predictor, egg):
    with use_clock(Clock(0.3)), pytest.raises(TimeLimitError):
        for _ in range(50):
            run(predictor, egg, {11: click(egg, 11)})


def test_stages_are_timed(predictor, egg):
    with use_clock(Clock()) as clock:
        run(predictor, egg, {11: click(egg, 11)}, options=PropagationOptions(max_slices=1))
    assert clock.stages["decode"] > 0 and clock.stages["follow"] > 0

"""One step from slice to slice: the object is found where it is, and its end is seen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lib.sam.volume.follow_net import FollowNet, likelihood
from lib.sam.volume.follower import WEIGHTS, Follower, Found, Slice, bundled_follower

SHAPE = (150, 200)
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= radius**2


def picture(*shown: np.ndarray, seed: int = 0, value: int = 190) -> np.ndarray:
    """Bright on a darker, slightly noisy ground, ``(H, W, 3)``."""
    inside = np.any(shown, axis=0) if shown else np.zeros(SHAPE, bool)
    noise = np.random.default_rng(seed).normal(0, 6, SHAPE)
    grey = np.clip(np.where(inside, value, 80) + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def find(before: np.ndarray, here: np.ndarray, follower: Follower | None = None) -> Found:
    marked = Slice.of(picture(before), before)
    return (follower or bundled_follower()).find(marked, marked, Slice.of(here))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("place", [(90, 64, 22), (95, 61, 22), (90, 64, 17), (90, 64, 27)])
def test_an_object_that_moves_shrinks_or_grows_is_found(place):
    moved = disc(*place)
    found = find(disc(90, 64, 22), picture(moved, seed=1))
    assert dice(found.probability > 0.5, moved) > 0.9
    assert found.presence > 0.5 and found.score > 0.7


def test_an_object_that_has_branched_is_found_in_both_branches():
    arms = disc(78, 64, 10), disc(102, 64, 10)
    found = find(disc(90, 64, 22), picture(*arms, seed=1)).probability > 0.5
    assert found[64, 78] and found[64, 102] and not found[64, 90]


def test_an_object_that_is_not_there_any_more_has_ended():
    assert find(disc(90, 64, 12), picture(seed=1)).presence < 0.3


@pytest.mark.parametrize("where", [(3, 4), (199, 149), (199, 2)])
def test_an_object_at_the_image_s_corner_is_found_and_nothing_beyond(where):
    corner = disc(*where, 24)
    found = find(corner, picture(corner, seed=1))
    assert found.probability.shape == SHAPE and dice(found.probability > 0.5, corner) > 0.85


def test_the_score_is_the_iou_that_the_probabilities_let_expect():
    class Half(FollowNet):
        def forward(self, seen):
            logits = torch.full((1, 128, 128), -100.0)
            logits[:, :, :64] = 100.0
            logits[:, 0, 64:] = 0.0  # 64 cells that are there with a probability of one half
            return logits, torch.zeros(1)

    found = find(disc(90, 64, 22), picture(), Follower(Half()))
    inside = 128 * 64
    assert found.score == pytest.approx(inside / (inside + 32), abs=1e-4) and found.presence == 0.5


def test_scale_does_not_matter():
    """An object of a large image is found as that of a small one."""
    before, here = disc(90, 64, 22), disc(94, 66, 20)
    small = find(before, picture(here, seed=1))
    large = [np.kron(each, np.ones((4, 4), bool)) for each in (before, here)]
    frames = [np.repeat(np.repeat(picture(each, seed=k), 4, 0), 4, 1) for k, each in enumerate((before, here))]
    marked = Slice.of(frames[0], large[0])
    found = bundled_follower().find(marked, marked, Slice.of(frames[1]))
    assert dice(found.probability > 0.5, large[1]) > 0.9
    assert found.presence == pytest.approx(small.presence, abs=0.1)


def test_threads_may_share_it():
    before, here = disc(90, 64, 22), picture(disc(95, 61, 22), seed=1)
    alone = find(before, here)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: find(before, here), range(8)))
    assert all(np.allclose(each.probability, alone.probability, atol=1e-5) for each in together)


def test_the_likelihood_tells_grey_values_of_the_object_from_those_around_it():
    mask = torch.zeros(2, 64, 64)
    mask[:, 20:40, 20:40] = 1
    bright = torch.full((2, 64, 64), 0.3) + 0.4 * mask
    bright[1] = 0.5  # both alike
    moved = bright.roll(8, 2)
    share = likelihood(moved, bright, mask)
    assert share.shape == moved.shape and share.dtype == torch.float32
    assert share[0, 30, 36] > 0.95 and share[0, 5, 5] < 0.05
    assert share[1].sub(0.5).abs().max() < 0.02, "it says nothing where both look alike"


def test_the_weights_are_small_and_all_of_the_network():
    assert WEIGHTS.stat().st_size < 8 * 2**20
    assert sum(each.numel() for each in FollowNet().parameters()) < 4e6

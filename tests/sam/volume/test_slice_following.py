"""One step from slice to slice: the object is followed where it is, and lost by a rule that is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import ALL_PROMPTS, MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import BACKGROUND, FOREGROUND
from lib.sam.volume.appearance import Appearance
from lib.sam.volume.slice_following import (
    EncodedSlice,
    FollowingOptions,
    ObjectLostError,
    correction_prompts,
    encode_slice,
    follow,
)

OPTIONS = FollowingOptions()
ROWS, COLUMNS = np.mgrid[:128, :128]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= radius**2


def picture(*discs: np.ndarray, value: int = 190) -> np.ndarray:
    """Bright discs on a darker, slightly noisy ground."""
    shown = np.any(discs, axis=0) if discs else np.zeros((128, 128), bool)
    noise = np.random.default_rng(0).normal(0, 4, (128, 128))
    grey = np.clip(np.where(shown, value, 70) + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


def logits_of(mask: np.ndarray) -> np.ndarray:
    """Of a mask of the picture: the grid has two cells a pixel."""
    return np.where(np.kron(mask, np.ones((2, 2), bool)), np.float32(8), np.float32(-8))


def seen(here: EncodedSlice, mask: np.ndarray) -> Appearance:
    return Appearance.of(here.grey, here.grid.mask(logits_of(mask)))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_a_slice_s_grid_has_its_grey_values(predictor):
    here = encode_slice(predictor, picture(disc(60, 64, 20)))
    assert here.grid.shape == here.grey.shape == (256, 256)
    assert here.grey[128, 120] > 170 and here.grey[10, 10] < 90


@pytest.mark.parametrize("moved", [disc(60, 64, 20), disc(64, 62, 20), disc(60, 64, 15), disc(60, 64, 25)])
def test_an_object_that_moves_shrinks_or_grows_is_followed(predictor, moved):
    before = disc(60, 64, 20)
    memory = seen(encode_slice(predictor, picture(before)), before)
    here = encode_slice(predictor, picture(moved))
    step = follow(predictor, here, logits_of(before), memory, OPTIONS)
    found = here.grid.mask(step.logits)
    assert dice(found, logits_of(moved) > 0) > 0.9
    assert step.overlap == pytest.approx(dice(found, logits_of(before) > 0)) and step.likeness > 0.9


def test_an_object_that_has_branched_is_followed_in_both(predictor):
    before = disc(60, 64, 22)
    memory = seen(encode_slice(predictor, picture(before)), before)
    arms = (disc(48, 64, 9), disc(72, 64, 9))
    here = encode_slice(predictor, picture(*arms))
    options = replace(OPTIONS, max_growth=8, min_overlap=0.2)
    found = here.grid.mask(follow(predictor, here, logits_of(before), memory, options).logits)
    assert found[128, 96] and found[128, 144] and not found[128, 120]


@pytest.mark.parametrize(
    ("shown", "value", "changes", "rule"),
    [
        (disc(60, 64, 5), 190, {"min_overlap": 0.0}, "area"),
        (disc(60, 64, 20), 110, {"min_overlap": 0.0, "max_growth": 100}, "appearance"),
        (disc(60, 64, 20), 190, {"min_score": 1.1}, "score"),
        (disc(60, 64, 20), 190, {"min_overlap": 1.01}, "overlap"),
        (disc(60, 64, 20), 190, {"min_cells": 60_000}, "nothing found"),
    ],
)
def test_it_is_lost_by_the_rule_that_it_breaks(predictor, shown, value, changes, rule):
    before = disc(60, 64, 20)
    memory = seen(encode_slice(predictor, picture(before)), before)
    here = encode_slice(predictor, picture(shown, value=value))
    with pytest.raises(ObjectLostError, match=f"^{rule}$"):
        follow(predictor, here, logits_of(before), memory, replace(OPTIONS, **changes))


def test_a_correction_shows_the_object_where_it_is_deepest_and_far_from_the_background_points(predictor):
    grid = encode_slice(predictor, picture()).grid
    mask = disc(60, 64, 20)
    background = np.array([[48.0, 64.0]])
    prompts = correction_prompts(grid, logits_of(mask), background, ALL_PROMPTS)
    assert prompts is not None and prompts.labels.tolist() == [FOREGROUND, BACKGROUND]
    x, y = prompts.points[0]
    assert mask[round(y), round(x)] and x > 60 and abs(y - 64) < 3, "on the other side of the background point"
    assert prompts.points[1].tolist() == [48, 64] and np.array_equal(prompts.mask_logits, logits_of(mask))


def test_nothing_is_corrected_where_nothing_remains(predictor):
    grid = encode_slice(predictor, picture()).grid
    assert (
        correction_prompts(grid, logits_of(np.zeros((128, 128), bool)), np.array([[48.0, 64.0]]), ALL_PROMPTS) is None
    )

"""How well a follower finds an object on the slices beside a marked one, of patients whom it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.sam.logits_grid import dice
from lib.sam.volume.follower import Follower, Slice

from .stacks import Slices

MIN_SLICES = 3
"""Shorter runs of slices say little."""

MIN_PRESENCE = 0.5


@dataclass(frozen=True)
class Score:
    """Of the held-out slices of a set.

    Attributes:
        objects: How many there are.
        dice: Mean over them of Dice on all slices but the marked one, which is the one with the largest mask.
        reached: Mean part of these slices on which something was found.
    """

    objects: int
    dice: float
    reached: float


def measure(follower: Follower, held_out: Sequence[Slices]) -> Score | None:
    """Return how well the true mask of the largest slice is followed to the others; None without such slices."""
    scores = [_followed(follower, slices) for slices in held_out if len(slices) >= MIN_SLICES]
    if not scores:
        return None
    means = np.mean(scores, axis=0)
    return Score(len(scores), float(means[0]), float(means[1]))


def _followed(follower: Follower, slices: Slices) -> tuple[float, float]:
    truth = np.stack([mask for _, mask in slices])
    marked = int(truth.sum(axis=(1, 2)).argmax())
    found = np.zeros_like(truth)
    for way in (range(marked + 1, len(slices)), range(marked - 1, -1, -1)):
        before = start = Slice.of(*slices[marked])
        for k in way:
            here = Slice.of(slices[k][0])
            step = follower.find(start, before, here)
            mask = step.probability > 0.5
            if step.presence < MIN_PRESENCE or not mask.any():
                break
            found[k] = mask
            before = replace(here, mask=step.probability)
    others = np.arange(len(slices)) != marked
    return dice(found[others], truth[others]), float(found[others].any(axis=(1, 2)).mean())

"""Simulated users: boxes and clicks for an object, and corrective clicks for a wrong answer.

Coordinates are XY pixels of the scene. Points lie at pixel centres (whole numbers), boxes run along pixel edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .shapes import Mask, Rng

MAX_POINTS = 4
"""Point slots per prompt; unused ones are padding with label -1."""


@dataclass
class Prompt:
    """Prompts for one object.

    Attributes:
        coords: float32 (MAX_POINTS, 2), XY.
        labels: int64 (MAX_POINTS,), 1 foreground, 0 background, -1 unused.
        box: float32 (4,), XYXY; NaN without a box.
    """

    coords: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32]

    @staticmethod
    def empty() -> Prompt:
        """Return a prompt that holds nothing yet."""
        return Prompt(
            np.zeros((MAX_POINTS, 2), np.float32), np.full(MAX_POINTS, -1, np.int64), np.full(4, np.nan, np.float32)
        )

    def add(self, point: tuple[float, float], label: int) -> None:
        """Put a click into the first free slot; a full prompt stays as it is."""
        free = np.flatnonzero(self.labels < 0)
        if len(free):
            self.coords[free[0]] = point
            self.labels[free[0]] = label


def tight_box(mask: Mask) -> NDArray[np.float32]:
    """Return the tight box XYXY of a non-empty mask, along pixel edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def depth(mask: Mask) -> tuple[NDArray[np.float64], int, int]:
    """Return the distance to the outside within the mask's box, and the box's first row and column."""
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    crop = np.pad(mask[y0:y1, x0:x1], 1)
    return ndimage.distance_transform_edt(crop)[1:-1, 1:-1], y0, x0


def centre_point(mask: Mask) -> tuple[float, float]:
    """Return the centre XY of the largest circle inscribed in a non-empty mask."""
    distance, row, column = depth(mask)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x + column), float(y + row)


def random_point(rng: Rng, mask: Mask, inner: float) -> tuple[float, float]:
    """Return a random pixel XY of a non-empty mask, at least `inner` times the largest depth inside it."""
    distance, row, column = depth(mask)
    rows, columns = np.nonzero((distance >= inner * distance.max()) & (distance > 0))
    pick = rng.integers(len(rows))
    return float(columns[pick] + column), float(rows[pick] + row)


def outside_point(rng: Rng, mask: Mask) -> tuple[float, float]:
    """Return a random pixel XY outside a mask, mostly near it."""
    x0, y0, x1, y1 = tight_box(mask)
    size = mask.shape[0]
    for _ in range(20):
        x = rng.uniform(x0 - 0.3 * (x1 - x0) - 4, x1 + 0.3 * (x1 - x0) + 4)
        y = rng.uniform(y0 - 0.3 * (y1 - y0) - 4, y1 + 0.3 * (y1 - y0) + 4)
        column, row = int(np.clip(x, 0, size - 1)), int(np.clip(y, 0, size - 1))
        if not mask[row, column]:
            return float(column), float(row)
    return random_point(rng, ~mask, 0.0)


def loose_box(rng: Rng, mask: Mask) -> NDArray[np.float32]:
    """Return a box that is tight within half a pixel or, as often, drawn by a less careful hand."""
    box = tight_box(mask)
    if rng.random() < 0.6:
        return (box + rng.uniform(-0.5, 0.5, 4)).astype(np.float32)
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.normal(0, 0.05, 4) * sides + rng.normal(0, 1, 4)
    if rng.random() < 0.3:
        moved += np.array([-1, -1, 1, 1]) * rng.uniform(0, 0.15) * sides
    low, high = np.minimum(moved[:2], moved[2:] - 2), np.maximum(moved[2:], moved[:2] + 2)
    return np.clip(np.concatenate([low, high]), 0, mask.shape[0]).astype(np.float32)


def first_prompt(rng: Rng, mask: Mask) -> Prompt:
    """Return a first prompt for an object: a box, a point, several points, or a box with points."""
    prompt = Prompt.empty()
    kind = rng.choice(["box", "point", "points", "both"], p=[0.38, 0.38, 0.12, 0.12])
    if kind in ("box", "both"):
        prompt.box = loose_box(rng, mask)
    if kind == "point":
        prompt.add(
            random_point(rng, mask, 0.9) if rng.random() < 0.5 else random_point(rng, mask, rng.uniform(0, 0.7)), 1
        )
    if kind in ("points", "both"):
        for _ in range(int(rng.integers(1, 3))):
            prompt.add(random_point(rng, mask, rng.uniform(0, 0.6)), 1)
        if rng.random() < 0.5:
            prompt.add(outside_point(rng, mask), 0)
    return prompt


def correct(rng: Rng, prompt: Prompt, mask: Mask, answer: Mask) -> Prompt:
    """Return the prompt with one more click in the larger part that the answer missed or added."""
    corrected = Prompt(prompt.coords.copy(), prompt.labels.copy(), prompt.box.copy())
    missed, added = mask & ~answer, answer & ~mask
    label = int(missed.sum() >= added.sum())
    error = missed if label else added
    if error.any():
        corrected.add(random_point(rng, error, 0.6), label)
    return corrected

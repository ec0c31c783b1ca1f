"""Simulated users: boxes and clicks for an object, and corrective clicks for a wrong answer.

Coordinates are XY pixels of the scene. Points lie at pixel centres (whole numbers), boxes run along pixel edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line as draw_line
from skimage.morphology import skeletonize

from lib.learning.examples import Mask
from lib.sam.packed_mask import tight_box

Rng = np.random.Generator

_SHORT_LINE, _BREAKS = 5, 10.0
"""Pixels of a middle line that is too short to follow; and of how many it is drawn in one go, about."""

MAX_POINTS = 8
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
    """Return a random pixel XY outside a mask that does not fill its picture, mostly near it."""
    x0, y0, x1, y1 = tight_box(mask)
    height, width = mask.shape
    for _ in range(20):
        x = rng.uniform(x0 - 0.3 * (x1 - x0) - 4, x1 + 0.3 * (x1 - x0) + 4)
        y = rng.uniform(y0 - 0.3 * (y1 - y0) - 4, y1 + 0.3 * (y1 - y0) + 4)
        column, row = int(np.clip(x, 0, width - 1)), int(np.clip(y, 0, height - 1))
        if not mask[row, column]:
            return float(column), float(row)
    return random_point(rng, ~mask, 0.0)


def shifted_box(rng: Rng, mask: Mask, most: float) -> NDArray[np.float32]:
    """Return the tight box, shifted as a whole in x and in y by up to `most` pixels or half its shorter side."""
    box = tight_box(mask)
    most = min(most, float((box[2:] - box[:2]).min()) / 2)
    return (box + np.tile(rng.uniform(-most, most, 2), 2)).astype(np.float32)


def loose_box(rng: Rng, mask: Mask, pixel: float) -> NDArray[np.float32]:
    """Return a box that is tight within half a pixel, shifted, or drawn by a less careful hand.

    `pixel` is the side of a pixel of the original image, which may have been coarser than the scene.
    """
    kind = rng.random()
    if kind < 0.3:
        return shifted_box(rng, mask, 5 * pixel)
    box = tight_box(mask)
    if kind < 0.5:
        return shifted_box(rng, mask, 0.4 * float((box[2:] - box[:2]).min()))
    if kind < 0.88:
        return (box + rng.uniform(-0.5, 0.5, 4) * pixel).astype(np.float32)
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.normal(0, 0.05, 4) * sides + rng.normal(0, 1, 4) * pixel
    if rng.random() < 0.3:
        moved += np.array([-1, -1, 1, 1]) * rng.uniform(0, 0.15) * sides
    low, high = np.minimum(moved[:2], moved[2:] - 2), np.maximum(moved[2:], moved[:2] + 2)
    edge = np.array(mask.shape[::-1], np.float32)
    return np.concatenate([np.clip(low, 0, edge - 1), np.clip(high, 1, edge)]).astype(np.float32)


def first_prompt(rng: Rng, mask: Mask, pixel: float = 1.0) -> Prompt:
    """Return a first prompt for an object: a box, a point, several points, or a box with points."""
    prompt = Prompt.empty()
    kind = rng.choice(["box", "point", "points", "both"], p=[0.5, 0.28, 0.09, 0.13])
    if kind in ("box", "both"):
        prompt.box = loose_box(rng, mask, pixel)
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


def stroke(rng: Rng, mask: Mask) -> Mask:
    """Return a stroke of one pixel's width on a non-empty object, as a user draws it: ``(H, W)`` bool, not empty.

    Half of the times a part of the object's middle line, else a straight line between two of its pixels, as far as it
    is on the object: the centerline and line scribbles of ScribblePrompt (Wong et al. 2023, arXiv:2312.07381).
    """
    line = skeletonize(mask)
    if rng.random() < 0.5 and line.sum() >= _SHORT_LINE:
        rough = ndimage.gaussian_filter(rng.normal(size=mask.shape), _BREAKS)
        return _longest(line & (rough > np.quantile(rough[line], rng.uniform(0, 0.6))))
    rows, columns = np.nonzero(mask)
    first, last = rng.integers(len(rows), size=2)
    drawn = np.zeros_like(mask)
    drawn[draw_line(rows[first], columns[first], rows[last], columns[last])] = True
    return _longest(drawn & mask)


def _longest(drawn: Mask) -> Mask:
    pieces, _ = ndimage.label(drawn, np.ones((3, 3)))
    return np.asarray(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())


def rough_outline(rng: Rng, mask: Mask) -> Mask:
    """Return what a quick lasso around a non-empty object encloses: its border, off by up to a tenth of its size."""
    if mask.all():
        return mask
    size = math.sqrt(mask.sum())
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    waves = ndimage.gaussian_filter(rng.normal(size=mask.shape), max(4.0, size / 4))
    off = max(1.5, 0.08 * size) * (waves / np.abs(waves[np.abs(inside) < 2]).max() + 0.3)
    drawn = inside + off > 0
    return np.asarray(drawn) if drawn.any() else mask


def largest_error(mask: Mask, answer: Mask) -> tuple[Mask, int] | None:
    """Return the largest connected region that is wrong, and 1 if it was missed or 0 if it is too much.

    None if nothing is wrong.
    """
    best: tuple[int, Mask, int] | None = None
    for wrong, label in ((mask & ~answer, 1), (answer & ~mask, 0)):
        regions, count = ndimage.label(wrong)
        if count:
            sizes = np.bincount(regions.ravel())[1:]
            largest = int(sizes.argmax())
            if best is None or sizes[largest] > best[0]:
                best = int(sizes[largest]), regions == largest + 1, label
    return None if best is None else best[1:]


def correct(rng: Rng, prompt: Prompt, mask: Mask, answer: Mask, scale: float) -> Prompt:
    """Return the prompt with one more click in the largest region that is wrong, mostly at its centre.

    Args:
        rng: Source of randomness.
        prompt: What was asked, in pixels of the scene.
        mask: The object.
        answer: What was answered, of the same shape.
        scale: Pixels of the scene per pixel of these two.
    """
    corrected = Prompt(prompt.coords.copy(), prompt.labels.copy(), prompt.box.copy())
    error = largest_error(mask, answer)
    if error is not None:
        region, label = error
        x, y = centre_point(region) if rng.random() < 0.6 else random_point(rng, region, 0.4)
        corrected.add(((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5), label)
    return corrected

"""Stacks of slices with an object in them, for training: from random numbers, and from single real images, deformed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from lib.sam.volume.follow_net import SIDE

Rng = np.random.Generator

Slices = Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Neighbouring slices of one size, (H, W, 3), each with the mask (H, W) of one object."""

ROOM = SIDE + 32
"""Rows and columns of a stack before it is cut to the object: the object may move out of what is seen."""

LENGTH = 9
"""Slices of a stack."""

MAX_SHARE = 0.22
"""Of the stack's area that the object has on that slice, at most."""

MIN_CELLS = 24
"""Area of the object on the slice that a user marks, at least."""


@dataclass(frozen=True)
class Stack:
    """A few neighbouring slices, cut out around an object.

    Attributes:
        grey: float32 (LENGTH, SIDE, SIDE), 0 to 1.
        truth: bool (LENGTH, SIDE, SIDE), the object; empty on the slices that it does not reach.
    """

    grey: NDArray[np.float32]
    truth: NDArray[np.bool_]


def smooth(rng: Rng, count: int, shape: tuple[int, int, int], nodes: tuple[int, int, int]) -> Tensor:
    """Return smooth random fields (count, *shape) of mean 0 and deviation about 1, from values at `nodes` places."""
    values = torch.from_numpy(rng.standard_normal((1, count, *nodes)).astype(np.float32))
    return F.interpolate(values, size=shape, mode="trilinear", align_corners=True)[0] * 1.6


def synthetic_stack(rng: Rng) -> Stack | None:
    """Return a stack of touching, branching, vanishing regions, some of them alike; None if none can be marked."""
    shape = (LENGTH, ROOM, ROOM)
    regions = int(rng.integers(3, 12))
    depth = int(rng.choice([2, 2, 2, 3]))
    across = int(rng.integers(4, 14))
    fields = smooth(rng, regions, shape, (depth, across, across))
    if rng.random() < 0.6:
        fine = int(rng.integers(across, 3 * across + 1))
        fields = fields + rng.uniform(0.1, 0.45) * smooth(rng, regions, shape, (2, fine, fine))
    labels = fields.argmax(0).numpy()
    labels = _with_solids(rng, labels)
    values = _grey_values(rng, labels, fields)
    return _cut(rng, values, labels)


def _with_solids(rng: Rng, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return labels with some ellipsoids and slanted tubes in front of the regions."""
    labels = labels.copy()
    k, j, i = np.ogrid[:LENGTH, :ROOM, :ROOM]
    for _ in range(int(rng.integers(0, 5))):
        new = int(labels.max()) + 1
        y, x = rng.uniform(0.15, 0.85, 2) * ROOM
        z = rng.uniform(-1, LENGTH + 1)
        slope = rng.normal(0, 1.5, 2)
        yy, xx = j - y - slope[0] * (k - z), i - x - slope[1] * (k - z)
        angle = rng.uniform(0, np.pi)
        u, v = yy * np.cos(angle) + xx * np.sin(angle), xx * np.cos(angle) - yy * np.sin(angle)
        a, b = np.exp(rng.uniform(np.log(5), np.log(45), 2))
        extent = rng.uniform(2.5, 12) if rng.random() < 0.7 else 1e3
        squeeze = 1 - ((k - z) / extent) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = (u / a) ** 2 + (v / b) ** 2 <= np.maximum(squeeze, 0)
        if rng.random() < 0.2:
            inside &= (u / a) ** 2 + (v / b) ** 2 > 0.45 * np.maximum(squeeze, 0)  # a wall
        labels[inside & (squeeze > 0)] = new
    return labels


def _grey_values(rng: Rng, labels: NDArray[np.int64], fields: Tensor) -> NDArray[np.float32]:
    count = int(labels.max()) + 1
    levels = rng.uniform(0.1, 0.9, count)
    if rng.random() < 0.6:  # some look alike
        same = rng.random(count) < 0.5
        levels[same] = rng.uniform(0.2, 0.8) + rng.normal(0, rng.uniform(0, 0.06), int(same.sum()))
    values = levels[labels].astype(np.float32)
    if rng.random() < 0.5:  # a thin border between them
        edge = np.zeros(labels.shape, bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
        values[edge] += np.float32(rng.choice([-1, 1]) * rng.uniform(0.05, 0.35))
    if rng.random() < 0.5:
        texture = smooth(rng, 1, labels.shape, (LENGTH, int(rng.integers(20, 70)), int(rng.integers(20, 70))))[0]
        values += rng.uniform(0.01, 0.09) * texture.numpy()
    return values


def real_stack(rng: Rng, slices: Slices) -> Stack | None:
    """Return a stack in which real images and the object in them change from slice to slice, and the object may end.

    Args:
        rng: Source of randomness.
        slices: Neighbouring slices of one size and the object on each; one of them will be the marked one. Beyond
            their ends the outermost is repeated, changed.
    """
    begin = int(rng.integers(len(slices))) - LENGTH // 2
    chosen = [slices[int(np.clip(begin + k, 0, len(slices) - 1))] for k in range(LENGTH)]
    mask = chosen[LENGTH // 2][1]
    rows, columns = np.nonzero(mask)
    centre = np.array([rows.mean(), columns.mean()])
    side = max(np.ptp(rows), np.ptp(columns), 8) * np.exp(rng.uniform(np.log(1.4), np.log(3.5)))
    step = side / ROOM
    j, i = np.mgrid[:ROOM, :ROOM].astype(np.float32)
    size = max(np.ptp(rows), np.ptp(columns), 8) / step / 2
    marked = LENGTH // 2
    drift = rng.normal(0, 0.03 * size, (2, LENGTH)).cumsum(1)
    amount = rng.uniform(0.02, 0.09) * size
    bend = smooth(rng, 2, (LENGTH, ROOM, ROOM), (int(rng.choice([3, 5, 9])), 6, 6)).numpy() * amount
    bend -= bend[:, marked : marked + 1]
    scale = np.exp(rng.normal(0, 0.05, LENGTH).cumsum())
    scale /= scale[marked]
    if rng.random() < 0.6:  # it ends on one side
        end, way = rng.uniform(1, LENGTH / 2), rng.choice([-1, 1])
        distance = np.clip((np.arange(LENGTH) - marked) * way, 0, None) / end
        scale *= np.sqrt(np.clip(1 - distance**2, 0, 1))
    y, x = j - ROOM / 2, i - ROOM / 2
    rim = 1.8 * size
    radius = np.maximum(np.hypot(y, x), 0.5) / rim
    grey, truth = np.zeros((2, LENGTH, ROOM, ROOM), np.float32)
    for k, (image, mask) in enumerate(chosen):
        source = torch.from_numpy(np.stack([image.mean(2, dtype=np.float32) / 255, mask.astype(np.float32)]))[None]
        power = np.log(size / rim) / np.log(np.clip(scale[k], 0.02, 1.6) * size / rim)
        wider = np.where(radius < 1, radius ** (power - 1), 1)  # what is around it closes in as it shrinks
        yy = centre[0] + step * (y * wider + bend[0, k] + drift[0, k] - drift[0, marked])
        xx = centre[1] + step * (x * wider + bend[1, k] + drift[1, k] - drift[1, marked])
        places = np.stack([xx / (mask.shape[1] - 1), yy / (mask.shape[0] - 1)], -1) * 2 - 1
        seen = F.grid_sample(source, torch.from_numpy(places[None].astype(np.float32)), align_corners=True)[0].numpy()
        grey[k], truth[k] = seen[0], seen[1] * (scale[k] > 0.12)
    return _cut(rng, grey, (truth > 0.5).astype(np.int64), only=1)


def _cut(rng: Rng, values: NDArray[np.float32], labels: NDArray[np.int64], only: int | None = None) -> Stack | None:
    """Return the stack around one of the labels as it is on the middle slice, with blur, noise and shifts."""
    middle = LENGTH // 2
    sizes = np.bincount(labels[middle].ravel())
    fit = np.flatnonzero((sizes >= MIN_CELLS) & (sizes < MAX_SHARE * ROOM**2))
    fit = fit if only is None else fit[fit == only]
    if not len(fit):
        return None
    truth = labels == rng.choice(fit)
    if only is None and rng.random() < 0.8:
        pieces, count = ndimage.label(truth)
        truth = pieces == 1 + int(np.bincount(pieces[middle].ravel(), minlength=count + 1)[1:].argmax())
    values = _imaged(rng, values)
    if not _is_seen(values[middle], truth[middle]):
        return None
    rows, columns = np.nonzero(truth[middle])
    pick = rng.integers(len(rows))
    middle_of = np.array([np.median(rows), np.median(columns)]) if rng.random() < 0.8 else [rows[pick], columns[pick]]
    top, left = np.clip(np.asarray(middle_of) - SIDE / 2 + rng.normal(0, 5, 2), 0, ROOM - SIDE).astype(int)
    window = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
    grey, truth = values[window], truth[window]
    if rng.random() < 0.3:  # slices that are not quite in line
        for k in range(LENGTH):
            moved = tuple(int(each) for each in rng.integers(-3, 4, 2))
            grey[k], truth[k] = np.roll(grey[k], moved, (0, 1)), np.roll(truth[k], moved, (0, 1))
    if rng.random() < 0.5:
        grey, truth = grey.transpose(0, 2, 1), truth.transpose(0, 2, 1)
    truth = _reached(truth)
    return Stack(np.ascontiguousarray(grey), np.ascontiguousarray(truth)) if truth[middle].sum() >= MIN_CELLS else None


def _is_seen(grey: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    """Return whether an object differs from what is around it by half of the spread of both, blurred."""
    smoothed = ndimage.uniform_filter(grey, 3)
    ring = ndimage.binary_dilation(mask, iterations=5) & ~mask
    if not mask.any() or not ring.any():
        return False
    inside, outside = smoothed[mask], smoothed[ring]
    border = smoothed[ndimage.binary_dilation(mask, iterations=1) & ~ndimage.binary_erosion(mask, iterations=1)]
    spread = 0.5 * float(inside.std() + outside.std()) + 1e-3
    contrast = max(abs(inside.mean() - outside.mean()), 0.7 * abs(border.mean() - np.r_[inside, outside].mean()))
    return bool(contrast > 0.5 * spread)


def _imaged(rng: Rng, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return grey values as a scanner may show them, 0 to 1."""
    x = torch.from_numpy(values)[:, None]
    coarse = float(rng.uniform(0.35, 1))
    if coarse < 0.95:
        x = F.interpolate(
            F.interpolate(x, scale_factor=coarse, mode="bilinear", antialias=True), size=x.shape[-2:], mode="bilinear"
        )
    y = x[:, 0].numpy().copy()
    if rng.random() < 0.4:
        y *= np.exp(rng.uniform(0, 0.3) * smooth(rng, 1, y.shape, (2, 3, 3))[0].numpy())
    noise = rng.standard_normal(y.shape).astype(np.float32)
    if rng.random() < 0.6:
        spread = F.avg_pool2d(torch.from_numpy(noise)[:, None], 3, 1, 1)[:, 0].numpy()
        noise = spread * np.float32(2.2)
    y += noise * np.float32(np.exp(rng.uniform(np.log(0.003), np.log(0.12))))
    if rng.random() < 0.4:
        y += rng.normal(0, 0.04, (len(y), 1, 1)).astype(np.float32)
    if rng.random() < 0.1:
        y = 1 - y
    if rng.random() < 0.5 or np.ptp(np.percentile(y, [1, 99])) < 0.3:
        low, high = np.percentile(y, [rng.uniform(0, 5), rng.uniform(95, 100)])
        y = (y - low) / max(high - low, 0.05)
    return np.clip(y, 0, 1).astype(np.float32)


def _reached(truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what can be followed from the middle slice: on each slice, pieces that lie over the one before."""
    pieces, _ = ndimage.label(truth)
    here = np.unique(pieces[len(truth) // 2])
    kept = np.isin(pieces, here[here > 0])
    for way in (range(len(truth) // 2 + 1, len(truth)), range(len(truth) // 2 - 1, -1, -1)):
        before = kept[len(truth) // 2]
        for k in way:
            near = ndimage.binary_dilation(before, iterations=4) if before.any() else before
            flat, _ = ndimage.label(kept[k])
            touched = np.unique(flat[near])
            kept[k] &= np.isin(flat, touched[touched > 0])
            before = kept[k]
    return np.asarray(kept)

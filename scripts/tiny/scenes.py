"""Synthetic scenes: an 8-bit image with the masks of the objects in it, made from random numbers alone."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from . import abstract, anatomy
from .canvas import Canvas
from .shapes import Field, Rng, smooth_noise, warp

MAX_OBJECTS = 20
SHARD = 100
"""Scenes per file of the cache."""


@dataclass(frozen=True)
class Scenes:
    """A set of scenes in memory.

    Attributes:
        images: uint8 (N, S, S), greyscale, zero outside the valid part.
        sizes: int32 (N, 2), valid height and width; the longer one is S.
        masks: uint8 (M, S, S / 8), masks of all objects, packed by `numpy.packbits` along the last axis.
        starts: int64 (N + 1,), objects of scene i are masks[starts[i]:starts[i + 1]].
    """

    images: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    masks: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def object_masks(self, scene: int, which: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return the masks (len(which), S, S) of the chosen objects of a scene."""
        packed = self.masks[self.starts[scene] + which]
        return np.unpackbits(packed, axis=-1).astype(bool)


def build(rng: Rng, size: int) -> tuple[Canvas, bool]:
    """Return a random noise-free scene and whether its values are Hounsfield-like."""
    kind = rng.choice(["thorax", "pelvis", "noise", "cells", "shapes", "ultrasound", "xray"], p=PROBABILITIES)
    if kind == "thorax":
        return anatomy.thorax(rng, size), True
    if kind == "pelvis":
        return anatomy.pelvis(rng, size), True
    makers = {
        "noise": abstract.noise_labels,
        "cells": abstract.cells,
        "shapes": abstract.shapes,
        "ultrasound": abstract.ultrasound,
        "xray": abstract.xray,
    }
    return makers[str(kind)](rng, size), False


PROBABILITIES = (0.34, 0.2, 0.08, 0.06, 0.22, 0.05, 0.05)


def window(rng: Rng, values: Field) -> Field:
    """Map Hounsfield-like values to 0..1 by a random display window, or to random grey levels as MR would."""
    choice = rng.random()
    if choice < 0.2:
        order = np.argsort(rng.uniform(size=8))
        levels = rng.uniform(0, 1, 8)[order]
        return np.interp(values, [-1000, -800, -300, -100, 20, 60, 150, 600], levels).astype(np.float32)
    if choice < 0.5:
        low, high = rng.uniform(-2100, -900), rng.uniform(900, 3500)
    elif choice < 0.8:
        centre, width = rng.normal(45, 20), rng.uniform(250, 600)
        low, high = centre - width / 2, centre + width / 2
    else:
        low, high = rng.uniform(-1300, -150), rng.uniform(200, 1500)
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)


def render(rng: Rng, values: Field) -> NDArray[np.uint8]:
    """Turn noise-free values in 0..1 into an 8-bit image: blur, bias field, noise, gamma, inversion."""
    size = values.shape[0]
    pixel = size / 512
    image = ndimage.gaussian_filter(values, rng.choice([0.6, 1.0, 1.4, 2.0, 3.0]) * pixel)
    if rng.random() < 0.3:
        image = image * np.exp(rng.uniform(0, 0.35) * smooth_noise(rng, size, rng.uniform(1, 3)))
    sigma = rng.choice([0.0, 0.004, 0.015, 0.04, 0.09], p=[0.15, 0.3, 0.3, 0.17, 0.08])
    if sigma:
        noise = rng.standard_normal((2, size, size)).astype(np.float32) * sigma
        grain = rng.choice([0.0, 0.6, 1.0, 1.8]) * pixel
        if grain:
            noise = ndimage.gaussian_filter(noise, (0, grain, grain)) * (1 + 2.2 * grain)
        kind = rng.random()
        if kind < 0.6:
            image = image + noise[0]
        elif kind < 0.8:
            image = np.hypot(image + noise[0], noise[1])
        else:
            image = image * (1 + 4 * noise[0])
    if rng.random() < 0.3:
        image = np.clip(image, 0, 1) ** rng.uniform(0.5, 2.0)
    if rng.random() < 0.06:
        image = 1 - image
    if rng.random() < 0.3:
        low, high = image.min(), image.max()
        image = (image - low) / max(high - low, 1e-6)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def make_scene(seed: int, index: int, size: int) -> tuple[NDArray[np.uint8], tuple[int, int], NDArray[np.bool_]]:
    """Return image (S, S), valid (height, width) and object masks (n, S, S) of scene `index` of a seed.

    A scene depends on its seed, index and size alone, so that any part of a set can be made again.
    """
    rng = np.random.default_rng([seed, index])
    while True:
        canvas, is_ct = build(rng, size)
        amplitude = rng.uniform(0, 5) * size / 256
        canvas.labels, canvas.values = warp(
            rng, canvas.labels, canvas.values, amplitude=amplitude, cells=rng.uniform(2, 7)
        )
        if is_ct:
            canvas.values += smooth_noise(rng, size, rng.uniform(40, 110)) * rng.choice([0, 3, 10, 25])
        image = render(rng, window(rng, canvas.values) if is_ct else canvas.values)
        height, width = size, size
        if rng.random() < 0.35:
            height = int(size * rng.uniform(0.6, 1))
            top = (size - height) // 2
            image[:height] = image[top : top + height].copy()
            canvas.labels[:height] = canvas.labels[top : top + height].copy()
            image[height:] = 0
            canvas.labels[height:] = 0
        if rng.random() < 0.5:
            image, canvas.labels = image[:, :width][:, ::-1].copy(), canvas.labels[:, ::-1].copy()
        if rng.random() < 0.5:
            image[:height], canvas.labels[:height] = image[:height][::-1].copy(), canvas.labels[:height][::-1].copy()
        if rng.random() < 0.3:
            image, canvas.labels = image.T.copy(), canvas.labels.T.copy()
            height, width = width, height
        objects = canvas.objects(rng, MAX_OBJECTS)
        if len(objects) >= 2:
            return image, (height, width), np.stack(objects)


def _make_shard(job: tuple[Path, int, int, int, int]) -> Path:
    """Make scenes first..first + count of a seed and write them to one file, unless it is there."""
    path, seed, first, count, size = job
    if path.exists():
        return path
    scenes = [make_scene(seed, first + i, size) for i in range(count)]
    starts = np.concatenate([[0], np.cumsum([len(masks) for _, _, masks in scenes])])
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        images=np.stack([image for image, _, _ in scenes]),
        sizes=np.array([valid for _, valid, _ in scenes], np.int32),
        masks=np.concatenate([np.packbits(masks, axis=-1) for _, _, masks in scenes]),
        starts=starts.astype(np.int64),
    )
    partial.replace(path)
    return path


def make_scenes(folder: Path, *, seed: int, count: int, size: int, workers: int) -> list[Path]:
    """Make a set of scenes in a cache folder and return its files; files that exist are kept.

    Args:
        folder: Cache folder, made if needed.
        seed: Seed of the set; training and validation use different ones.
        count: Number of scenes, rounded up to whole files of SHARD scenes.
        size: Side of the scenes in pixels, a multiple of 8.
        workers: Processes to use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard = min(SHARD, count)
    jobs = [
        (folder / f"scenes_{size}_{seed}_{shard}_{k:04d}.npz", seed, k * shard, shard, size)
        for k in range(-(-count // shard))
    ]
    if workers <= 1:
        return [_make_shard(job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return pool.map(_make_shard, jobs, chunksize=1)


def load_scenes(files: list[Path]) -> Scenes:
    """Read and join the files of a set."""
    images, sizes, masks, counts = [], [], [], []
    for path in files:
        with np.load(path) as data:
            images.append(data["images"])
            sizes.append(data["sizes"])
            masks.append(data["masks"])
            counts.append(np.diff(data["starts"]))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Scenes(np.concatenate(images), np.concatenate(sizes), np.concatenate(masks), starts)

"""Scenes without anatomy: random label maps, cells, overlapping shapes, tubes, ultrasound- and X-ray-like.

Values are about 0 to 1.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .anatomy import split
from .canvas import MIN_AREA, Canvas
from .shapes import Rng, grid, smooth_noise, star, tube


def near(rng: Rng, value: float) -> float:
    """Return another intensity: often clearly different from `value`, sometimes nearly equal to it."""
    if rng.random() < 0.45:
        return float(np.clip(value + rng.choice([-1, 1]) * rng.uniform(0.02, 0.12), 0, 1))
    return float(rng.uniform(0, 1))


def decorate(rng: Rng, canvas: Canvas, label: int) -> None:
    """Give a label a random texture."""
    region = canvas.labels == label
    canvas.texture(rng, region, rng.choice([0, 0.01, 0.03, 0.08]), rng.uniform(3, 90))


def noise_labels(rng: Rng, size: int) -> Canvas:
    """Return a label map made by the largest of several smooth noise fields."""
    canvas = Canvas(size, 0.0)
    count = int(rng.integers(3, 9))
    cells = rng.uniform(2, 9)
    fields = np.stack([smooth_noise(rng, size, cells) for _ in range(count)])
    winner = fields.argmax(0)
    value = rng.uniform(0, 1)
    for k in range(count):
        value = near(rng, value)
        parts, found = ndimage.label(winner == k)
        for part in range(1, found + 1):
            region = parts == part
            if region.sum() > MIN_AREA:
                decorate(rng, canvas, canvas.paint(region, value))
            else:
                canvas.values[region] = value
    return canvas


def cells(rng: Rng, size: int) -> Canvas:
    """Return Voronoi cells with or without walls, or separate roundish cells on a background."""
    background = rng.uniform(0, 1)
    canvas = Canvas(size, background)
    count = int(rng.integers(8, 50))
    points = rng.uniform(-1, 1, (count, 2))
    x, y = grid(size)
    x = x + 0.05 * smooth_noise(rng, size, 8)
    y = y + 0.05 * smooth_noise(rng, size, 8)
    distance = np.stack([(x - a) ** 2 + (y - b) ** 2 for a, b in points])
    order = np.partition(distance, 1, axis=0)
    wall = np.sqrt(order[1]) - np.sqrt(order[0]) < rng.choice([0, 0.02, 0.05])
    owner = distance.argmin(0)
    value = rng.uniform(0, 1)
    spread = rng.choice([0.02, 0.3])
    for k in rng.permutation(count)[: int(rng.integers(6, 40))]:
        cell_value = float(np.clip(value + rng.normal(0, spread), 0, 1))
        label = canvas.paint((owner == k) & ~wall, cell_value)
        decorate(rng, canvas, label)
        if rng.random() < 0.3:
            radius = rng.uniform(0.03, 0.1)
            canvas.paint(star(rng, size, tuple(points[k]), (radius, radius)), near(rng, cell_value), parent=label)
    return canvas


def shapes(rng: Rng, size: int) -> Canvas:
    """Return overlapping blobs, rings, nested parts and tubes, on a plain or textured background or a body."""
    value = rng.uniform(0, 1)
    canvas = Canvas(size, value)
    canvas.texture(rng, np.ones((size, size), bool), rng.choice([0, 0.03, 0.15]), rng.uniform(2, 60))
    parent = 0
    if rng.random() < 0.5:
        canvas.values[:] = rng.choice([0.0, 0.05, 1.0])
        outline = star(rng, size, (0, 0), (rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)), wobble=0.06)
        parent = canvas.paint(outline, value)
        decorate(rng, canvas, parent)
    small = rng.random() < 0.3
    for _ in range(int(rng.integers(3, 16))):
        centre = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.8, 0.8)))
        radius = rng.uniform(0.03, 0.12) if small else rng.uniform(0.04, 0.45)
        own = near(rng, value)
        kind = rng.random()
        if kind < 0.15:
            length, width = rng.uniform(0.2, 1.2), rng.uniform(0.03, 0.12)
            mask = tube(rng, size, centre, length=length, width=width, bend=rng.uniform(0.1, 0.6))
        else:
            radii = (radius, radius * rng.uniform(0.4, 1.0))
            if kind > 0.9:  # a crescent
                away = rng.uniform(0, 2 * np.pi)
                bite = radius * rng.uniform(0.4, 0.9)
                place = (centre[0] + bite * np.cos(away), centre[1] + bite * np.sin(away))
                radii = (radius, radius * rng.uniform(0.7, 1.0))
            mask = star(rng, size, centre, radii, angle=rng.uniform(0, np.pi), wobble=rng.choice([0.02, 0.15, 0.35]))
            if kind > 0.9:
                mask &= ~star(rng, size, place, (bite, bite), wobble=0.1)
        label = canvas.paint(mask, own, parent=parent)
        decorate(rng, canvas, label)
        if 0.3 < kind < 0.55:
            hole = rng.uniform(0.35, 0.8) * radius
            shift = (centre[0] + rng.normal(0, 0.1) * radius, centre[1] + rng.normal(0, 0.1) * radius)
            inner_value = value if rng.random() < 0.5 else near(rng, own)
            decorate(rng, canvas, canvas.paint(star(rng, size, shift, (hole, hole)), inner_value, parent=label))
        elif kind < 0.4:
            part = split(rng, canvas, label, line=near(rng, own) if rng.random() < 0.3 else None)
            if rng.random() < 0.5:
                canvas.values[canvas.labels == part] += rng.normal(0, 0.06)
    return canvas


def ultrasound(rng: Rng, size: int) -> Canvas:
    """Return a fan-shaped field of view with blobs, shadows and depth attenuation (speckle is added later)."""
    canvas = shapes(rng, size)
    x, y = grid(size)
    depth = np.hypot(x, y + 1.2)
    fan = (np.abs(np.arctan2(x, y + 1.2)) < rng.uniform(0.4, 0.8)) & (depth > 0.3) & (depth < 2.15)
    canvas.values *= np.exp(-rng.uniform(0, 0.6) * depth)
    angle = np.arctan2(x, y + 1.2)
    for _ in range(int(rng.integers(0, 3))):
        shadow = (np.abs(angle - rng.uniform(-0.6, 0.6)) < rng.uniform(0.02, 0.1)) & (depth > rng.uniform(0.6, 1.8))
        canvas.values[shadow] *= rng.uniform(0.3, 0.8)
    canvas.values[~fan] = 0
    canvas.labels[~fan] = 0
    return canvas


def xray(rng: Rng, size: int) -> Canvas:
    """Return a projection: attenuations of overlapping shapes add up, so that borders shine through."""
    canvas = Canvas(size, 0.0)
    total = 0.3 * smooth_noise(rng, size, 3)
    for _ in range(int(rng.integers(4, 14))):
        centre = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.8, 0.8)))
        radii = (rng.uniform(0.06, 0.5), rng.uniform(0.06, 0.6))
        mask = star(rng, size, centre, radii, angle=rng.uniform(0, np.pi), wobble=0.12)
        canvas.paint(mask, 0.0)
        profile = np.sqrt(np.minimum(ndimage.distance_transform_edt(mask), rng.uniform(4, 40) * size / 256))
        total = total + rng.choice([-1, 1, 1]) * rng.uniform(0.15, 0.6) * profile / max(float(profile.max()), 1e-3)
    span = float(total.max() - total.min())
    canvas.values = ((total - total.min()) / max(span, 1e-3)).astype(np.float32)
    return canvas

"""Random plane shapes, fields and curves on a square grid, the building blocks of the synthetic scenes.

Grids use unit coordinates: x to the right and y down, both from -1 to 1 over the image. Masks are bool
arrays (S, S), fields are float32 arrays (S, S). All randomness comes from the generator passed in.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]
Rng = np.random.Generator


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Field, Field]:
    """Return the x and y unit coordinates of the pixel centres, each (size, size)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def smooth_noise(rng: Rng, size: int, cells: float) -> Field:
    """Return smooth noise of zero mean and unit standard deviation with about `cells` bumps per side."""
    coarse = max(round(cells) + 3, 4)
    small = rng.standard_normal((coarse, coarse)).astype(np.float32)
    rows, columns = (spline(start, (coarse - 3) / (size - 1), size, coarse) for start in rng.uniform(0.5, 1.5, 2))
    field = rows @ small @ columns.T
    field = field - field.mean()
    return (field / max(float(field.std()), 1e-6)).astype(np.float32)


def spline(start: float, step: float, size: int, coarse: int) -> Field:
    """Return the cubic B-spline weights (size, coarse) of `size` places, `step` apart, among `coarse` knots."""
    place = start + step * np.arange(size)
    knot = np.floor(place).astype(int)
    t = place - knot
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((size, coarse), np.float32)
    for offset, part in zip((-1, 0, 1, 2), parts, strict=True):
        np.add.at(weights, (np.arange(size), np.clip(knot + offset, 0, coarse - 1)), part / 6)
    return weights


def star(
    rng: Rng,
    size: int,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    angle: float = 0.0,
    wobble: float = 0.1,
    power: float = 2.0,
) -> Mask:
    """Return a star-shaped region: a superellipse whose radius is modulated by random harmonics.

    Args:
        rng: Source of randomness.
        size: Side of the grid in pixels.
        centre: Centre (x, y) in unit coordinates.
        radii: Semi-axes in unit coordinates.
        angle: Rotation in radians.
        wobble: Relative amplitude of the harmonics; 0 gives the plain superellipse.
        power: Exponent of the superellipse; 2 is an ellipse, larger values are boxier.
    """
    result = np.zeros((size, size), bool)
    reach = 1.6 * max(*radii, 1e-3) * np.sqrt(2)
    low = [max(int((place - reach + 1) / 2 * size) - 1, 0) for place in centre]
    high = [min(int((place + reach + 1) / 2 * size) + 2, size) for place in centre]
    near = (slice(low[1], max(high[1], 0)), slice(low[0], max(high[0], 0)))
    x, y = grid(size)
    dx, dy = x[near] - centre[0], y[near] - centre[1]
    c, s = np.cos(angle), np.sin(angle)
    u = (c * dx + s * dy) / max(radii[0], 1e-3)
    v = (c * dy - s * dx) / max(radii[1], 1e-3)
    rho = (np.abs(u) ** power + np.abs(v) ** power) ** (1.0 / power)
    mask = rho < 1.6
    limit = np.ones(int(mask.sum()), np.float32)
    if wobble > 0:
        theta = np.arctan2(v[mask], u[mask])
        for k in range(2, 7):
            limit += (rng.normal(0, wobble) / (k - 0.5)) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    result[near][mask] = rho[mask] < np.clip(limit, 0.25, 1.6)
    return result


def tube(rng: Rng, size: int, start: tuple[float, float], *, length: float, width: float, bend: float) -> Mask:
    """Return a tube of the given length and width (unit coordinates) along a randomly bending path."""
    steps = max(int(length * size / 2 / 2), 4)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(ndimage.gaussian_filter1d(rng.normal(0, bend, steps), 3))
    step = length / steps
    xs = start[0] + np.cumsum(np.cos(heading)) * step
    ys = start[1] + np.cumsum(np.sin(heading)) * step
    return polyline(size, xs, ys, width)


def polyline(size: int, xs: NDArray[np.floating], ys: NDArray[np.floating], width: float) -> Mask:
    """Return the pixels within width / 2 (unit coordinates) of the points of a densely sampled path."""
    result = np.zeros((size, size), bool)
    columns = np.round((np.asarray(xs) + 1) / 2 * size - 0.5).astype(int)
    rows = np.round((np.asarray(ys) + 1) / 2 * size - 0.5).astype(int)
    keep = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    if not keep.any():
        return result
    columns, rows = columns[keep], rows[keep]
    reach = max(width * size / 4, 0.8)
    top, left = max(int(rows.min() - reach) - 1, 0), max(int(columns.min() - reach) - 1, 0)
    near = (slice(top, int(rows.max() + reach) + 2), slice(left, int(columns.max() + reach) + 2))
    path = np.ones(result[near].shape, bool)
    path[rows - top, columns - left] = False
    result[near] = ndimage.distance_transform_edt(path) <= reach
    return result


def warp(
    rng: Rng, labels: NDArray[np.int16], values: Field, *, amplitude: float, cells: float
) -> tuple[NDArray[np.int16], Field]:
    """Deform a label map (nearest neighbour) and its values (linear) by one smooth random displacement."""
    size = labels.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    rows += smooth_noise(rng, size, cells) * amplitude
    columns += smooth_noise(rng, size, cells) * amplitude
    where = np.stack([rows, columns])
    moved = ndimage.map_coordinates(labels, where, order=0, mode="nearest")
    return moved, ndimage.map_coordinates(values, where, order=1, mode="nearest").astype(np.float32)

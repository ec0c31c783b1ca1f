"""Synthetic volumes with solids of known shape: noise, blur, partial volume, neighbours, thick slices.

Lengths are millimetres. A solid is a function of distance, negative inside, of which only the surface must be exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
from scipy import ndimage

Solid = Callable[[np.ndarray], np.ndarray]
"""``(..., 3)`` positions (x, y, z) to ``(...)`` signed distances."""

SIZE = (150.0, 120.0, 96.0)
"""Of every volume, in x, y and z."""


@dataclass(frozen=True, eq=False)
class SolidVolume:
    """A volume and the object in it.

    Args:
        name: What is in it.
        frames: ``(K, rows, columns)`` int16, grey values of no particular unit.
        truth: ``(K, rows, columns)`` bool.
        middle: The slice to prompt: the middle one of those that the object is on.
    """

    name: str
    frames: np.ndarray
    truth: np.ndarray

    @property
    def middle(self) -> int:
        """The slice in the middle of those that it is on."""
        slices = np.flatnonzero(self.truth.any(axis=(1, 2)))
        return int(slices[len(slices) // 2])


def ellipsoid(centre: Sequence[float], radii: Sequence[float], tilt: float = 0.0) -> Solid:
    """An ellipsoid, turned by ``tilt`` (radians) about the y axis."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

    def distance(positions: np.ndarray) -> np.ndarray:
        scaled = (positions - np.asarray(centre)) @ turn.T / np.asarray(radii)
        result: np.ndarray = (np.linalg.norm(scaled, axis=-1) - 1) * min(radii)
        return result

    return distance


def tube(path: Sequence[Sequence[float]], radius: float) -> Solid:
    """A tube of straight pieces with round joints and ends."""

    def distance(positions: np.ndarray) -> np.ndarray:
        nearest = np.full(positions.shape[:-1], np.inf)
        for start, end in zip(np.asarray(path[:-1], float), np.asarray(path[1:], float), strict=True):
            along = np.clip((positions - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(positions - start - along[..., None] * (end - start), axis=-1))
        return nearest - radius

    return distance


def shell(solid: Solid, thickness: float) -> Solid:
    """The wall of a solid, half of it on either side of the surface."""
    return lambda positions: np.abs(solid(positions)) - thickness / 2


def union(*solids: Solid) -> Solid:
    """What is in any of them."""
    return lambda positions: reduce(np.minimum, (solid(positions) for solid in solids))


def without(solid: Solid, *others: Solid) -> Solid:
    """What is in the first alone."""
    return lambda positions: np.maximum(solid(positions), -union(*others)(positions))


def occupancy(solid: Solid, pixel: float, thickness: float) -> np.ndarray:
    """``(K, rows, columns)`` from 0 to 1: how much of each voxel is inside, so that borders have partial volume."""
    x, y, z = (np.arange(length / step) * step for length, step in zip(SIZE, (pixel, pixel, thickness), strict=True))
    layers = np.linspace(-0.5, 0.5, 4, endpoint=False) + 0.125
    total = np.zeros((len(z), len(y), len(x)))
    for layer in layers:
        grid = np.stack(np.meshgrid(z + layer * thickness, y, x, indexing="ij")[::-1], axis=-1)
        total += np.clip(0.5 - solid(grid) / pixel, 0, 1)
    return total / len(layers)


def volume(
    name: str,
    solid: Solid,
    *,
    neighbours: Sequence[tuple[Solid, float]] = (),
    value: float = 160.0,
    noise: float = 8.0,
    blur: float = 0.6,
    pixel: float = 1.0,
    thickness: float = 2.0,
    seed: int = 0,
) -> SolidVolume:
    """A body with a textured ground of about 100, neighbours, and the solid in front of them.

    Args:
        name: What is in it.
        solid: The object.
        neighbours: Other solids and their grey values.
        value: The object's grey value.
        noise: Standard deviation of the noise, which is independent from voxel to voxel before the blur.
        blur: Sigma of the in-plane blur in pixels.
        pixel: In-plane size of a voxel.
        thickness: Of a slice.
        seed: Of noise and texture.
    """
    rng = np.random.default_rng(seed)
    inside = occupancy(solid, pixel, thickness)
    body = occupancy(ellipsoid((75, 60, 48), (70, 55, 150)), pixel, thickness)
    texture = ndimage.gaussian_filter(rng.normal(size=inside.shape), (3, 8, 8))
    values = body * (100 + 6 * texture / texture.std())
    for other, grey in neighbours:
        part = occupancy(other, pixel, thickness)
        values = values * (1 - part) + grey * part
    values = values * (1 - inside) + value * inside
    values = ndimage.gaussian_filter(values + rng.normal(0, noise, inside.shape) * (1 + blur), (0, blur, blur))
    return SolidVolume(name=name, frames=values.astype(np.int16), truth=inside >= 0.5)


def solid_volumes(seed: int = 0) -> list[SolidVolume]:
    """The set that ``benchmarks/volumes.py`` measures; ``seed`` moves, sizes and shades everything a little."""
    rng = np.random.default_rng(1000 + seed)

    def near(*numbers: float) -> tuple[float, ...]:
        return tuple(number * rng.uniform(0.9, 1.1) for number in numbers)

    organ = ellipsoid(near(60, 58, 46), near(26, 20, 30))
    beside = ellipsoid(near(104, 58, 50), near(15, 18, 26))
    trunk = [near(70, 60, 8), near(72, 58, 48)]
    left, right = near(46, 54, 88), near(100, 62, 88)
    tilted = ellipsoid(near(72, 60, 48), near(14, 18, 36), tilt=rng.uniform(0.4, 0.6))
    bent = [near(50, 70, 10), near(64, 52, 36), near(90, 52, 60), near(100, 66, 86)]
    wall = ellipsoid(near(74, 58, 48), near(30, 26, 32))
    bean = without(ellipsoid(near(64, 60, 48), near(24, 20, 34)), ellipsoid(near(88, 60, 48), near(14, 12, 16)))
    made = partial(volume, seed=seed)
    return [
        made("ellipsoid", organ),
        made("ellipsoid, noisy", organ, noise=20),
        made("ellipsoid, 6 mm slices", organ, thickness=6.0),
        made("ellipsoid, bright neighbour", organ, neighbours=[(beside, 190.0)]),
        made("ellipsoid, alike neighbour", organ, neighbours=[(beside, 150.0)]),
        made("tilted ellipsoid, dark", tilted, value=50.0),
        made("kidney shape, blurred", bean, blur=2.0),
        made("bent tube", tube(bent, *near(9)), value=180.0),
        made("branching tube", union(tube([*trunk, left], *near(9)), tube([*trunk, right], *near(8)))),
        made("shell", shell(wall, *near(9))),
        made("small ball, fine pixels", ellipsoid(near(80, 50, 44), near(9, 9, 9)), pixel=0.6),
        made("faint ellipsoid", organ, value=122.0, noise=6),
    ]

"""Phantoms whose segmentation is known."""

from __future__ import annotations

import numpy as np

BALL_CENTRE = (30, 24, 7)
BALL_AFFINE = np.array([[-1.5, 0, 0, 40], [0, -1.5, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1]])


def ball_volume() -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in ``(i, j, k)`` order, no two sides alike: ``(64, 48, 16)`` int16 and its bool mask."""
    i, j, k = np.mgrid[:64, :48, :16]
    ci, cj, ck = BALL_CENTRE
    mask = (i - ci) ** 2 + (j - cj) ** 2 + (2 * (k - ck)) ** 2 <= 11**2
    noise = np.random.default_rng(3).normal(0, 10, mask.shape)
    return np.where(mask, 400, 100).astype(np.int16) + noise.astype(np.int16), mask

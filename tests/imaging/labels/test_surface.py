"""Surfaces of masks as STL."""

from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.image import UnsupportedImageError
from lib.imaging.labels.surface import surface_stl

RADIUS = 20.0
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def ball(affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    k, j, i = np.mgrid[:30, :60, :50]
    mm = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    return np.asarray(np.linalg.norm(mm - centre, axis=-1) < RADIUS)


def triangles(stl: bytes) -> np.ndarray:
    assert len(stl) == 84 + 50 * int(np.frombuffer(stl[80:84], "<u4")[0])
    return np.frombuffer(stl[84:], TRIANGLE)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, 1)])
def test_a_ball_has_its_place_size_and_outside(signs):
    affine = np.diag([*(np.array([1.0, 0.9, 2.0]) * signs), 1.0])
    affine[:3, 3] = [10, -20, 30]
    centre = (affine @ [25, 30, 15, 1])[:3]
    mask = ball(affine, centre)
    found = triangles(surface_stl(mask, affine))
    corners = found["corners"].astype(float)
    assert np.abs(np.linalg.norm(corners - centre, axis=2) - RADIUS).max() < 2.0
    volume = np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(mask.sum() * abs(np.linalg.det(affine)), rel=0.03), "closed, seen from outside"
    outward = np.einsum("ni,ni->n", found["normal"], corners.mean(axis=1) - centre)
    assert (outward > 0).all()
    edges = np.sort(np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(-1, 3), axis=1)
    pairs = np.concatenate([edges[:, [0, 1]], edges[:, [1, 2]], edges[:, [0, 2]]])
    assert (np.unique(pairs, axis=0, return_counts=True)[1] == 2).all(), "each edge has a triangle on both sides"


def test_a_single_voxel_has_a_surface_and_nothing_has_none():
    mask = np.zeros((5, 5, 5), bool)
    with pytest.raises(UnsupportedImageError, match="no surface"):
        surface_stl(mask, np.eye(4))
    mask[2, 2, 2] = True
    corners = triangles(surface_stl(mask, np.eye(4)))["corners"]
    assert np.abs(corners - 2).max() < 1.5

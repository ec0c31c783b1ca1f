from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest

from lib.imaging.image import CorruptImageError, MedicalImage
from lib.imaging.labels.label_grid import labels_on_grid

SHAPE = (3, 4, 5)
AFFINE = np.array([[-0.5, 0.1, 0, 10], [0.1, 0.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
LABELS = np.arange(60, dtype=np.uint8).reshape(SHAPE)


def labels(frames: np.ndarray = LABELS, affine: np.ndarray = AFFINE, is_geometric: bool = True) -> MedicalImage:
    return MedicalImage(frames=frames, affine=affine, is_geometric=is_geometric)


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("flips", [*itertools.product((1, -1), repeat=3)])
def test_every_swap_and_flip_of_axes_is_undone(axes, flips):
    image = nibabel.Nifti1Image(LABELS.T, AFFINE)
    turned = image.as_reoriented(np.array([axes, flips]).T)
    found = labels(np.asarray(turned.dataobj).T, turned.affine)
    np.testing.assert_array_equal(labels_on_grid(found, AFFINE, SHAPE), LABELS)


def test_a_rounded_affine_is_the_same_place():
    rounded = AFFINE.astype(np.float32).astype(np.float64) + 1e-4
    rounded[3] = 0, 0, 0, 1
    np.testing.assert_array_equal(labels_on_grid(labels(affine=rounded), AFFINE, SHAPE), LABELS)


@pytest.mark.parametrize("what", ["image", "labels"])
def test_without_a_place_the_order_of_voxels_holds(what):
    other = np.diag([-3.0, 3, 3, 1])
    if what == "image":
        found = labels_on_grid(labels(affine=other), None, SHAPE)
    else:
        found = labels_on_grid(labels(affine=other, is_geometric=False), AFFINE, SHAPE)
    np.testing.assert_array_equal(found, LABELS)


def moved(voxels: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += voxels * AFFINE[:3, 0]
    return affine


SHEARED = AFFINE @ np.array([[1, 0, 0.4, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
TURNED = AFFINE @ np.array([[0.7071, -0.7071, 0, 0], [0.7071, 0.7071, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    "other",
    [
        labels(affine=moved(1)),
        labels(affine=moved(0.5)),
        labels(affine=SHEARED),
        labels(affine=TURNED),
        labels(affine=AFFINE @ np.diag([2.0, 2, 2, 1])),
        labels(np.zeros((3, 4, 6), np.uint8)),
        labels(np.zeros((3, 5, 4), np.uint8)),
        labels(np.zeros((2, 4, 5), np.uint8), is_geometric=False),
    ],
    ids=["a voxel", "half a voxel", "sheared", "turned", "coarser", "wider", "transposed", "fewer slices"],
)
def test_labels_that_lie_elsewhere_are_refused(other):
    with pytest.raises(CorruptImageError, match="do not lie on"):
        labels_on_grid(other, AFFINE, SHAPE)


def test_colours_are_no_labels():
    with pytest.raises(CorruptImageError, match="colours"):
        labels_on_grid(labels(np.zeros((3, 4, 5, 3), np.uint8)), AFFINE, SHAPE)

"""Pictures of an image are laid out as radiologists expect them, whatever the order of its axes."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from lib.imaging.image import MedicalImage
from lib.imaging.planes import view_planes

ORIENTATIONS = [
    "".join(ends) for axes in permutations(("LR", "PA", "IS")) for ends in product(*axes)
]  # 48 orders and directions of the axes, as codes of where the index rises to
SHAPE = (5, 7, 4)
SPACING = (0.7, 1.9, 3.1)
LETTERS = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
DIRECTIONS = {
    "L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1),
}  # fmt: skip


def image_along(codes: str) -> MedicalImage:
    """Each voxel has another value; the axes lead to the sides that the codes name."""
    affine = np.eye(4)
    for axis, code in enumerate(codes):
        affine[:3, axis] = np.array(DIRECTIONS[code]) * SPACING[axis]
    affine[:3, 3] = (11, -23, 37)
    assert "".join(nibabel.aff2axcodes(affine)) == codes
    frames = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE[::-1])
    return MedicalImage(frames, affine, file_format="NIfTI", is_geometric=True)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_sides_and_voxels_in_all_orientations(codes):
    """A step to the right of a picture leads to the side that its letter names, by the spacing, and so downwards."""
    image = image_along(codes)
    planes = view_planes(image)
    assert {plane.name: plane.letters for plane in planes} == LETTERS
    assert planes[0].axes[2] == 2, "the first plane is that of the frames"
    for plane in planes:
        for index in range(plane.size[2]):
            values = plane.picture(image, index)
            assert values.shape == plane.size[1::-1] and values.flags.c_contiguous
            k, j, i = np.unravel_index(values, image.frames.shape)
            places = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ image.affine.T
            _, right, _, bottom = plane.letters
            across, down = np.diff(places[..., :3], axis=1), np.diff(places[..., :3], axis=0)
            assert np.abs(across - np.array(DIRECTIONS[right]) * plane.spacing[0]).max() < 1e-9
            assert np.abs(down - np.array(DIRECTIONS[bottom]) * plane.spacing[1]).max() < 1e-9
            assert {int(axis) for axis in np.stack([i, j, k])[plane.axes[2]].reshape(-1)} == {index}


def test_oblique_sides_have_two_letters():
    angle = np.radians(30)
    turned = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag([-1, -1, 1])
    image = MedicalImage(np.zeros((4, 5, 6), np.int16), affine, is_geometric=True)
    axial = view_planes(image)[0]
    assert axial.name == "axial" and axial.flipped == (False, False)
    assert axial.letters == ("RP", "LA", "AR", "PL")


def test_a_picture_without_a_patient_is_shown_as_it_is_stored():
    image = MedicalImage(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3))
    (plane,) = view_planes(image)
    assert (plane.name, plane.letters, plane.size) == ("stored", ("",) * 4, (3, 2, 1))
    assert np.array_equal(plane.picture(image, 0), image.frames[0])


def test_frames_that_are_no_volume_have_no_other_planes_and_no_sides():
    image = MedicalImage(
        np.zeros((3, 4, 5), np.int16), is_geometric=True, volume_fault="the frames are parallel, but at one place"
    )
    assert [plane.name for plane in view_planes(image)] == ["stored"]
    single = MedicalImage(np.zeros((1, 4, 5), np.int16), is_geometric=True)
    assert [(plane.name, plane.letters) for plane in view_planes(single)] == [("axial", ("R", "L", "A", "P"))]


def test_an_axis_of_no_length_is_no_place():
    image = MedicalImage(np.zeros((2, 4, 5), np.int16), np.diag([1.0, 0, 2, 1]), is_geometric=True)
    (plane,) = view_planes(image)
    assert (plane.name, plane.spacing) == ("stored", (1.0, 1.0, 2.0))

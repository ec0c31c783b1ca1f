"""Planes of frames and the affine of a stack of them, computed by hand for small headers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.imaging.dicom.geometry import (
    Plane,
    axes_of,
    default_affine,
    frame_planes,
    plane_of,
    position_of,
    stack_affine,
)
from support.items import item

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]


def header(**attributes: Any) -> Dataset:
    """A classic image's place: first pixel at (-10, 20, 30) mm, rows 0.5 mm and columns 0.25 mm apart."""
    placed = {"ImagePositionPatient": [-10, 20, 30], "ImageOrientationPatient": AXIAL, "PixelSpacing": [0.5, 0.25]}
    return item(**{key: value for key, value in {**placed, **attributes}.items() if value is not None})


def enhanced(*positions: list[float] | None, **shared: Any) -> Dataset:
    """An image with a frame at each of these positions; None: the frame has no position."""
    frames = [
        item(PlanePositionSequence=[item(ImagePositionPatient=place)]) if place else item() for place in positions
    ]
    common = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=AXIAL)],
        "PixelMeasuresSequence": [item(PixelSpacing=[0.5, 0.25], SliceThickness=4)],
    }
    return item(SharedFunctionalGroupsSequence=[item(**{**common, **shared})], PerFrameFunctionalGroupsSequence=frames)


def stack(*positions: list[float], thickness: float | None = None) -> list[Plane]:
    """Axial planes at these positions."""
    x, y, _ = np.eye(3)
    return [Plane(np.array(position, float), x, y, 0.5, 0.25, thickness) for position in positions]


# --- axes and positions


def test_axes_are_unit_vectors_in_the_order_of_columns_and_rows():
    assert np.array_equal(axes_of(header(ImageOrientationPatient=CORONAL)), [[1, 0, 0], [0, 0, -1]])
    rounded = axes_of(header(ImageOrientationPatient=[0.999, 0, 0, 0, 1.002, 0]))
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-12)


@pytest.mark.parametrize(
    "orientation",
    [
        None,
        [1, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 1, 0],
        [1, 0, 0, 0.1, 0.995, 0],
    ],
    ids=["absent", "half", "no length", "no unit vector", "not perpendicular"],
)
def test_axes_that_are_none(orientation):
    assert axes_of(header(ImageOrientationPatient=orientation)) is None
    assert plane_of(header(ImageOrientationPatient=orientation)) is None


def test_the_position_of_a_frame_is_its_own_else_the_root_s():
    image = enhanced([1, 2, 3], [1, 2, 7])
    assert position_of(image, 1).tolist() == [1, 2, 7]
    assert position_of(header()).tolist() == [-10, 20, 30]
    assert position_of(header(ImagePositionPatient=None)) is None
    assert position_of(header(ImagePositionPatient=[1, 2])) is None


def test_the_place_of_an_nm_image_is_in_its_one_detector():
    detector = item(ImagePositionPatient=[5, 6, 7], ImageOrientationPatient=CORONAL)
    nothing = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    image = header(DetectorInformationSequence=[detector], **nothing)
    assert position_of(image).tolist() == [5, 6, 7] and axes_of(image).tolist() == [[1, 0, 0], [0, 0, -1]]
    assert position_of(header(DetectorInformationSequence=[detector, detector], **nothing)) is None


# --- planes


def test_a_plane_has_all_of_its_header_in_the_order_of_dicom():
    plane = plane_of(header(ImageOrientationPatient=CORONAL, SliceThickness=3))
    assert plane.row_direction.tolist() == [1, 0, 0] and plane.column_direction.tolist() == [0, 0, -1]
    assert (plane.row_spacing, plane.column_spacing, plane.thickness) == (0.5, 0.25, 3)
    assert plane.normal.tolist() == [0, 1, 0]
    assert plane.moved(-2).position.tolist() == [-10, 18, 30]


def test_the_step_between_slices_goes_before_their_thickness_and_has_no_sign():
    assert plane_of(header(SpacingBetweenSlices=-2, SliceThickness=3)).thickness == 2
    assert plane_of(header(SpacingBetweenSlices=0, SliceThickness=3)).thickness == 3
    assert plane_of(header()).thickness is None


def test_a_plane_without_spacing_takes_the_default_or_is_none():
    assert plane_of(header(PixelSpacing=None)) is None
    plane = plane_of(header(PixelSpacing=None), default_spacing=(2, 3))
    assert (plane.row_spacing, plane.column_spacing) == (2, 3)
    stated = plane_of(header(), default_spacing=(2, 3))
    assert (stated.row_spacing, stated.column_spacing) == (0.5, 0.25)


def test_frames_with_planes_of_their_own():
    planes = frame_planes(enhanced([1, 2, 3], [1, 2, 7]), 2)
    assert [plane.position.tolist() for plane in planes] == [[1, 2, 3], [1, 2, 7]]
    assert planes[0].thickness == 4
    assert frame_planes(enhanced([1, 2, 3], None), 2) is None, "one frame has none"


@pytest.mark.parametrize(
    ("attributes", "heights"),
    [
        ({"GridFrameOffsetVector": [0, 2, 5]}, [30, 32, 35]),
        ({"GridFrameOffsetVector": [30, 32, 35]}, [30, 32, 35]),
        ({"GridFrameOffsetVector": [0, 2], "SpacingBetweenSlices": 4}, [30, 34, 38]),
        ({"SpacingBetweenSlices": -4}, [30, 26, 22]),
        ({}, [30, 30, 30]),
    ],
    ids=["offsets", "absolute offsets", "too few offsets", "against the normal", "nothing"],
)
def test_frames_that_share_a_plane_are_moved_along_its_normal(attributes, heights):
    planes = frame_planes(header(**attributes), 3)
    assert [plane.position.tolist() for plane in planes] == [[-10, 20, height] for height in heights]


def test_no_frame_has_a_plane_if_the_one_they_share_is_not_stated():
    assert frame_planes(header(ImagePositionPatient=None, SpacingBetweenSlices=4), 3) is None


# --- affines


def test_the_affine_is_in_ras_with_columns_of_the_voxel_axes():
    affine, positions = stack_affine(stack([-10, 20, 30], [-10, 20, 32], [-10, 20, 34]))
    assert positions is None
    assert np.array_equal(affine, [[-0.25, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]])


def test_a_lone_plane_is_stepped_along_its_normal_by_its_thickness():
    assert stack_affine(stack([0, 0, 5], thickness=3))[0][:3, 2].tolist() == [0, 0, 3]
    assert stack_affine(stack([0, 0, 5]))[0][:3, 2].tolist() == [0, 0, 1]


def test_a_gantry_s_tilt_is_in_the_affine():
    affine, positions = stack_affine(stack([0, 0, 0], [0, 1, 4], [0, 2, 8]))
    assert positions is None and affine[:3, 2].tolist() == [0, -1, 4]


def test_rounded_positions_are_evenly_spaced():
    affine, positions = stack_affine(stack([0, 0, 0], [0, 0, 2.15], [0, 0, 4]))
    assert positions is None and affine[2, 2] == 2


def test_positions_are_returned_if_a_plane_is_missing_and_the_step_is_the_median():
    affine, positions = stack_affine(stack([0, 5, 0], [0, 5, 2], [0, 5, 4], [0, 5, 8]))
    assert affine[:3, 2].tolist() == [0, 0, 2]
    assert positions.tolist() == [[0, -5, 0], [0, -5, 2], [0, -5, 4], [0, -5, 8]]


def test_what_is_not_stated_is_as_in_itk():
    nothing = header(ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    assert np.array_equal(default_affine(nothing), np.diag([-1, -1, 1, 1]))
    some = default_affine(header(ImageOrientationPatient=None, SpacingBetweenSlices=4))
    assert np.array_equal(some, [[-0.25, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])

"""Where a DICOM image lies in the patient: planes of frames, and the affine of a stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom_values import functional_group, numbers

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK count millimetres to the patient's left and back, NIfTI and MONAI to the right and front."""

_UNIFORM_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame's plane in the patient coordinate system (LPS, mm): DICOM PS3.3 C.7.6.2.

    Args:
        position: ``(3,)`` centre of the first pixel, Image Position (Patient).
        row_direction: ``(3,)`` unit vector of increasing column index ``i``, first half of Image Orientation.
        column_direction: ``(3,)`` unit vector of increasing row index ``j``, second half.
        row_spacing: mm between rows (along ``j``), first value of Pixel Spacing.
        column_spacing: mm between columns (along ``i``), second value.
        thickness: mm along the normal: Slice Thickness, None where it is absent or 0.
    """

    position: np.ndarray
    row_direction: np.ndarray
    column_direction: np.ndarray
    row_spacing: float
    column_spacing: float
    thickness: float | None

    @property
    def normal(self) -> np.ndarray:
        """``(3,)`` unit vector, the cross product of the two directions."""
        return np.cross(self.row_direction, self.column_direction)


def plane_of(dataset: Dataset, frame: int = 0) -> Plane | None:
    """The plane of a frame.

    Args:
        dataset: An image's header.
        frame: 0-based. Looked up in the functional groups of enhanced objects (PS3.3 C.7.6.16); else the
            attributes at the root hold for it.

    Returns:
        None unless position, orientation (two perpendicular unit vectors) and pixel spacing are all there.
    """
    position = numbers(functional_group(dataset, "PlanePositionSequence", frame), "ImagePositionPatient")
    orientation = numbers(functional_group(dataset, "PlaneOrientationSequence", frame), "ImageOrientationPatient")
    measures = functional_group(dataset, "PixelMeasuresSequence", frame)
    spacing, thickness = numbers(measures, "PixelSpacing"), numbers(measures, "SliceThickness")
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or min(spacing) <= 0:
        return None
    axes = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.05 or abs(axes[0] @ axes[1]) > 0.05:
        return None
    axes = axes / lengths[:, np.newaxis]
    return Plane(
        position=np.array(position),
        row_direction=axes[0],
        column_direction=axes[1],
        row_spacing=spacing[0],
        column_spacing=spacing[1],
        thickness=thickness[0] if thickness and thickness[0] > 0 else None,
    )


def frame_planes(dataset: Dataset, frame_count: int) -> list[Plane] | None:
    """The planes of all frames of an instance, None unless each has one.

    Where frames share one plane at the root, RT Dose's Grid Frame Offset Vector (PS3.3 C.8.8.3.2) moves them along
    the normal.

    Args:
        dataset: An image's header.
        frame_count: How many frames it has.
    """
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        plane = plane_of(dataset)
        if plane is None:
            return None
        offsets = numbers(dataset, "GridFrameOffsetVector")
        if len(offsets) != frame_count:
            return [plane] * frame_count
        return [_moved(plane, offset - offsets[0]) for offset in offsets]
    planes = [plane_of(dataset, frame) for frame in range(frame_count)]
    found = [plane for plane in planes if plane is not None]
    return found if len(found) == frame_count else None


def affine_of(planes: Sequence[Plane] | None) -> tuple[np.ndarray, bool]:
    """The affine of a stack of parallel planes.

    The step along ``k`` is the mean one, from the first plane to the last, so gantry tilt is in it (a sheared
    affine), and gaps of different size are spread evenly. Where the planes are not parallel, return to the same
    place (time points), or there is one only, the first plane holds, stepped along its normal by its thickness, else
    by 1 mm.

    Args:
        planes: In order of ``k``; None when nothing is known.

    Returns:
        ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres in RAS+, and whether it came from ``planes``
        (identity else).
    """
    if not planes:
        return np.eye(4), False
    first = planes[0]
    affine = np.eye(4)
    affine[:3, 0] = first.row_direction * first.column_spacing
    affine[:3, 1] = first.column_direction * first.row_spacing
    affine[:3, 2] = _mean_step(planes)
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine, True


def _mean_step(planes: Sequence[Plane]) -> np.ndarray:
    """``(3,)`` mm per frame."""
    first, last = planes[0], planes[-1]
    alone = first.normal * (first.thickness or 1.0)
    if len(planes) == 1:
        return alone
    normals = np.array([plane.normal for plane in planes])
    heights = np.array([plane.position for plane in planes]) @ first.normal
    gaps = np.diff(heights)
    one_way = (gaps > 1e-3).all() or (gaps < -1e-3).all()
    if not one_way or (normals @ first.normal).min() < 1 - _UNIFORM_TOLERANCE:
        return alone
    return (last.position - first.position) / (len(planes) - 1)


def _moved(plane: Plane, distance: float) -> Plane:
    """The plane, moved along its normal by ``distance`` mm."""
    return Plane(
        position=plane.position + plane.normal * distance,
        row_direction=plane.row_direction,
        column_direction=plane.column_direction,
        row_spacing=plane.row_spacing,
        column_spacing=plane.column_spacing,
        thickness=plane.thickness,
    )

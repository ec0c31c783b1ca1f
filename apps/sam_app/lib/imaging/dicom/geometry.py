"""Position and pixel size of DICOM images: planes of frames in the patient, and the affine of a stack of planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.header_values import functional_group, numbers, value_of
from lib.imaging.image import LPS_TO_RAS, position_tolerance

UNKNOWN_SPACING = (1.0, 1.0)
"""mm between rows and columns of an image that does not state its spacing; the same as in ITK."""


_CENTIMETRES = 3
"""Value of Physical Units X Direction and Y Direction, PS3.3 C.8.5.5.1.15."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Plane of one frame in the patient coordinate system (LPS, mm): DICOM PS3.3 C.7.6.2.

    Args:
        position: ``(3,)`` centre of the first pixel, Image Position (Patient).
        row_direction: ``(3,)`` unit vector of increasing column index ``i``, first half of Image Orientation.
        column_direction: ``(3,)`` unit vector of increasing row index ``j``, second half.
        row_spacing: mm between rows (along ``j``), first value of Pixel Spacing.
        column_spacing: mm between columns (along ``i``), second value.
        thickness: mm along the normal that a single frame covers: Spacing Between Slices or Slice Thickness, else None.
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

    def moved(self, distance: float) -> Plane:
        """Return the plane moved along its normal by ``distance`` mm."""
        return replace(self, position=self.position + self.normal * distance)


def axes_of(dataset: Dataset, frame: int = 0) -> np.ndarray | None:
    """Return the directions of increasing column and row index of a frame.

    ``(2, 3)`` unit vectors (LPS); None unless the header states two perpendicular ones.
    """
    orientation = numbers(_placed(dataset, "PlaneOrientationSequence", frame), "ImageOrientationPatient")
    if len(orientation) != 6:
        return None
    axes = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.05 or abs(axes[0] @ axes[1]) > 0.05:
        return None
    return np.asarray(axes / lengths[:, np.newaxis])


def position_of(dataset: Dataset, frame: int = 0) -> np.ndarray | None:
    """Return the centre of a frame's first pixel, ``(3,)`` LPS mm; None if it is not stated."""
    position = numbers(_placed(dataset, "PlanePositionSequence", frame), "ImagePositionPatient")
    return np.array(position) if len(position) == 3 else None


def plane_of(dataset: Dataset, frame: int = 0, *, default_spacing: tuple[float, float] | None = None) -> Plane | None:
    """Return the plane of a frame, if the header states it.

    Args:
        dataset: An image's header.
        frame: 0-based. Attributes are read from the functional groups of enhanced objects (PS3.3 C.7.6.16) or from the
            detector's description of an NM image (C.8.4.11), otherwise from the root.
        default_spacing: Pixel spacing to use if none is stated.

    Returns:
        The plane; None unless position, orientation (two perpendicular unit vectors) and pixel spacing are known.
    """
    position, axes = position_of(dataset, frame), axes_of(dataset, frame)
    spacing = pixel_spacing(dataset, frame) or default_spacing
    if position is None or axes is None or spacing is None:
        return None
    measures = functional_group(dataset, "PixelMeasuresSequence", frame)
    sizes = [abs(value) for key in ("SpacingBetweenSlices", "SliceThickness") for value in numbers(measures, key)]
    return Plane(position, axes[0], axes[1], *spacing, next(filter(None, sizes), None))


def frame_planes(
    dataset: Dataset, frame_count: int, *, default_spacing: tuple[float, float] | None = None
) -> list[Plane] | None:
    """Return the planes of all frames of an instance; None unless each frame has one.

    If the frames share one plane at the root, each is moved along the normal by RT Dose's Grid Frame Offset Vector
    (PS3.3 C.8.8.3.2) or by Spacing Between Slices.

    Args:
        dataset: An image's header.
        frame_count: Number of its frames.
        default_spacing: As for :func:`plane_of`.
    """
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        plane = plane_of(dataset, default_spacing=default_spacing)
        if plane is None:
            return None
        offsets = numbers(dataset, "GridFrameOffsetVector")
        if len(offsets) == frame_count:
            return [plane.moved(offset - offsets[0]) for offset in offsets]
        return [plane.moved(number * (slice_step(dataset) or 0.0)) for number in range(frame_count)]
    planes = [plane_of(dataset, frame, default_spacing=default_spacing) for frame in range(frame_count)]
    found = [plane for plane in planes if plane is not None]
    return found if len(found) == frame_count else None


def stack_affine(planes: Sequence[Plane]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the affine of a stack of parallel planes, and their positions if the affine does not fit them all.

    The affine's step along ``k`` is the mean step, from the first plane to the last, so that it includes a gantry tilt
    (a sheared affine), if all planes are within :func:`~lib.imaging.image.position_tolerance` of it. Otherwise planes
    are missing or unevenly spaced, and the step is the median one.

    Args:
        planes: In order of ``k``, at least one. A single plane's step is its thickness along its normal, else 1 mm.

    Returns:
        ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to mm in RAS+; and, unless it fits all planes, their positions, ``(K,
        3)`` in RAS+ mm.
    """
    positions = np.array([plane.position for plane in planes])
    if len(planes) == 1:
        return _affine(planes[0], planes[0].normal * (planes[0].thickness or 1.0)), None
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    even = positions[0] + np.arange(len(planes))[:, np.newaxis] * step
    if np.linalg.norm(positions - even, axis=1).max() <= position_tolerance(step):
        return _affine(planes[0], step), None
    gaps = np.diff(positions, axis=0)
    step = gaps[np.argsort(np.linalg.norm(gaps, axis=1))[len(gaps) // 2]]
    return _affine(planes[0], step), positions @ LPS_TO_RAS[:3, :3]


def default_affine(dataset: Dataset) -> np.ndarray:
    """Return the affine of an image whose position is not fully stated; missing values are ITK's defaults.

    See :class:`lib.imaging.image.MedicalImage`.

    Args:
        dataset: A header; the spacing, orientation and position that it states are used.

    Returns:
        ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres in RAS+.
    """
    position, axes = position_of(dataset), axes_of(dataset)
    row_direction, column_direction = np.eye(3)[:2] if axes is None else axes
    row_spacing, column_spacing = pixel_spacing(dataset) or UNKNOWN_SPACING
    origin = np.zeros(3) if position is None else position
    plane = Plane(origin, row_direction, column_direction, row_spacing, column_spacing, thickness=None)
    return _affine(plane, plane.normal * (slice_step(dataset) or 1.0))


def _affine(plane: Plane, step: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0] = plane.row_direction * plane.column_spacing
    affine[:3, 1] = plane.column_direction * plane.row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = plane.position
    return LPS_TO_RAS @ affine


def _placed(dataset: Dataset, sequence: str, frame: int) -> Dataset:
    """Return the data set that states a frame's position or orientation."""
    found = functional_group(dataset, sequence, frame)
    detectors = value_of(dataset, "DetectorInformationSequence") or []
    return detectors[0] if found is dataset and len(detectors) == 1 else found


def pixel_spacing(dataset: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """Return the size of a frame's pixels, from the first of these attributes that the header states:

    1. Pixel Spacing: calibrated, or in the patient (PS3.3 10.7.1).
    2. Imager Pixel Spacing, divided by the Estimated Radiographic Magnification Factor if there is one (C.8.7.1).
    3. Nominal Scanned Pixel Spacing (C.8.6.2).
    4. Physical Delta X and Y of the ultrasound regions that are measured in length, where these agree (C.8.5.5).

    Args:
        dataset: An image's header.
        frame: 0-based.

    Returns:
        mm between rows (along ``j``) and between columns (along ``i``); None if unknown.
    """
    own = _pair(functional_group(dataset, "PixelMeasuresSequence", frame), "PixelSpacing")
    if own:
        return own
    detector = _pair(dataset, "ImagerPixelSpacing")
    if detector:
        found = numbers(dataset, "EstimatedRadiographicMagnificationFactor")
        magnification = found[0] if len(found) == 1 and found[0] > 0 else 1.0
        return detector[0] / magnification, detector[1] / magnification
    return _pair(dataset, "NominalScannedPixelSpacing") or _of_ultrasound_regions(dataset)


def slice_step(dataset: Dataset) -> float | None:
    """Return the step from frame to frame in mm along the normal (Spacing Between Slices); None if not stated.

    It is negative if an NM image's frames run against the normal (PS3.3 C.8.4.15).
    """
    found = numbers(dataset, "SpacingBetweenSlices")
    return found[0] if len(found) == 1 and found[0] else None


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers(dataset, keyword)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _of_ultrasound_regions(dataset: Dataset) -> tuple[float, float] | None:
    """Return the common spacing of all regions measured in centimetres along both axes; None if they differ.

    This excludes spectra, curves and M-mode. The deltas' signs state directions, not sizes.
    """
    found = set()
    for region in value_of(dataset, "SequenceOfUltrasoundRegions") or ():
        units = [value_of(region, f"PhysicalUnits{axis}Direction") for axis in "YX"]
        deltas = [abs(delta) for axis in "YX" for delta in numbers(region, f"PhysicalDelta{axis}")]
        if units == [_CENTIMETRES] * 2 and len(deltas) == 2:
            found.add((round(10 * deltas[0], 9), round(10 * deltas[1], 9)))
    spacing = found.pop() if len(found) == 1 else None
    return spacing if spacing and min(spacing) > 0 else None

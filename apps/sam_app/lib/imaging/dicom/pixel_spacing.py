"""Pixel size of DICOM images, whether or not their position in the patient is known."""

from __future__ import annotations

from pydicom import Dataset

from lib.imaging.dicom.header_values import functional_group, numbers, value_of

_CENTIMETRES = 3
"""Value of Physical Units X Direction and Y Direction, PS3.3 C.8.5.5.1.15."""


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

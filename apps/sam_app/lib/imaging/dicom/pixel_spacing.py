"""How large the pixels of a DICOM image are, whether or not the image lies in a patient."""

from __future__ import annotations

from pydicom import Dataset

from lib.imaging.dicom.header_values import functional_group, numbers, value_of

_CENTIMETRES = 3
"""Of Physical Units X and Y Direction, PS3.3 C.8.5.5.1.15."""


def pixel_spacing(dataset: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """The size of a frame's pixels by the first of these that the header states, as DICOM has them:

    1. Pixel Spacing: calibrated, or in the patient (PS3.3 10.7.1).
    2. Imager Pixel Spacing, divided by the Estimated Radiographic Magnification Factor if there is one (C.8.7.1).
    3. Nominal Scanned Pixel Spacing (C.8.6.2).
    4. Physical Delta X and Y of the ultrasound regions that are measured in length, where these agree (C.8.5.5).

    Args:
        dataset: An image's header.
        frame: 0-based.

    Returns:
        mm between rows (along ``j``) and between columns (along ``i``); None if it is not known.
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
    """The step from frame to frame in mm along the normal, by Spacing Between Slices; None if it is not stated.

    It is negative where an NM image's frames run against the normal (PS3.3 C.8.4.15).
    """
    found = numbers(dataset, "SpacingBetweenSlices")
    return found[0] if len(found) == 1 and found[0] else None


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers(dataset, keyword)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _of_ultrasound_regions(dataset: Dataset) -> tuple[float, float] | None:
    """The one spacing of all regions that are centimetres by centimetres: not of spectra, curves and M-mode.

    The deltas' signs say directions, not sizes.
    """
    found = set()
    for region in value_of(dataset, "SequenceOfUltrasoundRegions") or ():
        units = [value_of(region, f"PhysicalUnits{axis}Direction") for axis in "YX"]
        deltas = [abs(delta) for axis in "YX" for delta in numbers(region, f"PhysicalDelta{axis}")]
        if units == [_CENTIMETRES] * 2 and len(deltas) == 2:
            found.add((round(10 * deltas[0], 9), round(10 * deltas[1], 9)))
    spacing = found.pop() if len(found) == 1 else None
    return spacing if spacing and min(spacing) > 0 else None

"""Checks whether images or frames form one volume: by position, and by other attributes of their headers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.multival import MultiValue

from lib.imaging.dicom.geometry import Plane, axes_of, position_of, stack_affine
from lib.imaging.dicom.header_values import functional_group, value_of

_DIRECTION_TOLERANCE = 1e-3
"""Tolerance of a direction cosine: half a millimetre over half a metre."""
_SPACING_TOLERANCE = 1e-3
"""Relative tolerance of a pixel spacing."""
_SAME_POSITION = (1e-3, 0.05)
"""mm, and fraction of the mean step: images closer than both are at the same position."""

_CONSTANT_IN_VOLUME = {
    "TemporalPositionIdentifier": None,
    "TemporalPositionIndex": "FrameContentSequence",
    "StackID": "FrameContentSequence",
    "EchoNumbers": None,
    "EchoTime": None,
    "EffectiveEchoTime": "MREchoSequence",
    "InversionTime": None,
    "DiffusionBValue": "MRDiffusionSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalPercentageOfRespiratoryPhase": "RespiratorySynchronizationSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ImageType": None,
    "ConvolutionKernel": "CTReconstructionSequence",
    "SOPClassUID": None,
}
"""Attributes that are constant within a volume (when, how and what was acquired), with their functional group."""

_VARYING_IN_VOLUME = {
    "DiffusionGradientOrientation": None,
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "TriggerTime": None,
    "AcquisitionNumber": None,
    "FrameReferenceDateTime": "FrameContentSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
    "AcquisitionDateTime": None,
    "AcquisitionTime": None,
    "ContentTime": None,
    "InStackPositionNumber": "FrameContentSequence",
}
"""Attributes that may change within a volume, but may also distinguish volumes."""


class FrameWithPlane(NamedTuple):
    """A frame with its position.

    Args:
        header: Header of its instance.
        number: Number of the frame within the instance, 0-based.
        plane: Its plane in the patient.
    """

    header: Dataset
    number: int
    plane: Plane


def series_problem(headers: Sequence[Dataset]) -> str:
    """Return why images, of which these are the headers, do not belong to one patient and study; empty if they do."""
    for keyword in ("PatientID", "StudyInstanceUID"):
        values = [str(value_of(header, keyword)) for header in headers]
        if len(set(values)) > 1:
            found = f"they have {_counted(values)} of {_name(keyword)}; send those with one value"
            return f"the {len(headers)} images are not one volume: {found}"
    return ""


def position_problem(frames: Sequence[tuple[Dataset, int]], what: str = "images") -> str:
    """Return why the positions that frames state cannot be used, so that no others may be assumed.

    Args:
        frames: The header of each frame, and its number within the instance.
        what: "images" or "frames", for the message.

    Returns:
        What was found; empty if all frames have a position, or none has.
    """
    places = [position_of(header, number) for header, number in frames]
    valid = {
        "ImagePositionPatient": [place is not None for place in places],
        "ImageOrientationPatient": [axes_of(header, number) is not None for header, number in frames],
    }
    where = f"the {len(frames)} {what} are not one volume:"
    for keyword, is_valid in valid.items():
        if 0 < sum(is_valid) < len(frames):
            return f"{where} {sum(is_valid)} of them have a valid {_name(keyword)}; send those with or those without it"
    if not any(valid["ImageOrientationPatient"]) and len({tuple(place) for place in places if place is not None}) > 1:
        direction = _name("ImageOrientationPatient")
        return f"{where} they state different places, but no valid {direction} (two perpendicular directions)"
    return ""


def volume_problem(frames: Sequence[FrameWithPlane], what: str = "images") -> str:
    """Return why frames do not form one volume.

    Gaps are accepted, see :func:`lib.imaging.dicom.geometry.stack_affine`; but if they are uneven, more attributes are
    compared to find interleaved stacks.

    Args:
        frames: In order of ``k``.
        what: "images" or "frames", for the message.

    Returns:
        What was found and what to send instead; empty if they form one volume.
    """
    if len(frames) == 1:
        return ""
    heights = np.array([frame.plane.position for frame in frames]) @ frames[0].plane.normal
    found = _different(frames) or _same_place(frames, heights, what) or _interleaved(frames, heights, what)
    gaps = np.diff(heights)
    if not found and not ((gaps > 0).all() or (gaps < 0).all()):
        found = "they are not in the order of their positions; sort them by position"
    return f"the {len(frames)} {what} are not one volume: {found}" if found else ""


def _different(frames: Sequence[FrameWithPlane]) -> str:
    """Return a message if frames of reference, directions or spacings differ, or some frames are localizers."""
    systems = [str(value_of(frame.header, "FrameOfReferenceUID")) for frame in frames]
    if len(set(systems)) > 1:
        return f"they have {_counted(systems)} of {_name('FrameOfReferenceUID')}; send those with one value"
    axes = np.array([[frame.plane.row_direction, frame.plane.column_direction] for frame in frames])
    directions = _group_ids(axes.reshape(len(frames), 6), _DIRECTION_TOLERANCE)
    if len(set(directions)) > 1:
        return (
            f"they lie in different directions, {_counted(directions)} of {_name('ImageOrientationPatient')}, as a "
            "localizer among slices does; send those with one direction"
        )
    spacings = _group_ids(np.log([(f.plane.row_spacing, f.plane.column_spacing) for f in frames]), _SPACING_TOLERANCE)
    if len(set(spacings)) > 1:
        return f"they have {_counted(spacings)} of {_name('PixelSpacing')}; send those with one value"
    localizers = ["LOCALIZER" in value for value in _values(frames, "ImageType", None)]
    if len(set(localizers)) > 1:
        return f"{sum(localizers)} of them are localizers by {_name('ImageType')}; send only the others"
    return ""


def _same_place(frames: Sequence[FrameWithPlane], heights: np.ndarray, what: str) -> str:
    ordered = np.sort(heights)
    least = max(_SAME_POSITION[0], _SAME_POSITION[1] * (ordered[-1] - ordered[0]) / (len(frames) - 1))
    places = np.concatenate([[0], np.cumsum(np.diff(ordered) >= least)])[np.argsort(np.argsort(heights, kind="stable"))]
    count = int(places.max()) + 1
    if count == len(frames):
        return ""
    where = f"they lie at {count} {'places' if count > 1 else 'place'}"
    varying = []
    for keyword, group in (_CONSTANT_IN_VOLUME | _VARYING_IN_VOLUME).items():
        values = _values(frames, keyword, group)
        if len(set(values)) > 1 and len(set(zip(values, places, strict=True))) == len(frames):
            return f"{where}, as they have {_counted(values)} of {_name(keyword)}; send those with one value"
        if len(set(values)) > 1 and keyword in _CONSTANT_IN_VOLUME:
            varying.append(_name(keyword))
    if varying:
        return f"{where}, as they differ in {' and '.join(varying)}; send those with one value of each"
    return f"{where}, and no attribute distinguishes the {what} at the same place; send one for each place"


def _interleaved(frames: Sequence[FrameWithPlane], heights: np.ndarray, what: str) -> str:
    """Return a message if groups of frames that differ in an attribute overlap along the normal."""
    uneven = stack_affine([frame.plane for frame in frames])[1] is not None
    for keyword, group in (_CONSTANT_IN_VOLUME | _VARYING_IN_VOLUME if uneven else _CONSTANT_IN_VOLUME).items():
        values = _values(frames, keyword, group)
        by_value: dict[str, list[float]] = {}
        for value, height in zip(values, heights.tolist(), strict=True):
            by_value.setdefault(value, []).append(height)
        ranges = sorted((min(some), max(some)) for some in by_value.values())
        if any(later[0] < earlier[1] for earlier, later in pairwise(ranges)):
            return f"{what} with {_counted(values)} of {_name(keyword)} are interleaved; send those with one value"
    return ""


def _values(frames: Sequence[FrameWithPlane], keyword: str, group: str | None) -> list[str]:
    """Return an attribute's values as text, one per frame.

    Attributes outside of functional groups are the same for all frames of an instance.
    """
    if group:
        return [_text(functional_group(frame.header, group, frame.number), keyword) for frame in frames]
    by_header = {id(frame.header): frame.header for frame in frames}
    known = {key: _text(header, keyword) for key, header in by_header.items()}
    return [known[id(frame.header)] for frame in frames]


def _text(source: Dataset, keyword: str) -> str:
    """Return an attribute's value as text; of Image Type and Frame Type what follows "ORIGINAL" and "PRIMARY"."""
    value = value_of(source, keyword)
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value[2:] if keyword in ("ImageType", "FrameType") else value))
    return str(value)


def _group_ids(values: np.ndarray, tolerance: float) -> list[int]:
    """Return a group number per row of values.

    Rows of a group differ from its first row by at most ``tolerance``.
    """
    numbers = np.full(len(values), -1)
    while (rest := numbers < 0).any():
        near = np.abs(values - values[rest.argmax()]).max(axis=1) <= tolerance
        numbers[rest & near] = numbers.max() + 1
    return [int(number) for number in numbers]


def _counted(values: Iterable[object]) -> str:
    """Return how many different values there are and how often each occurs, without the values."""
    counts = sorted(Counter(values).values(), reverse=True)
    often = ", ".join(map(str, counts[:6])) + (", ..." if len(counts) > 6 else "")
    return f"{len(counts)} values ({often} times)"


def _name(keyword: str) -> str:
    """Return an attribute's name and tag."""
    tag = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"

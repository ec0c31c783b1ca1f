"""Whether images or frames make one volume: by place, and by what else tells them apart in their headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.multival import MultiValue

from lib.imaging.dicom.geometry import Plane, axes_of, place_of, position_of
from lib.imaging.dicom.header_values import functional_group, value_of

_PARALLEL = 1e-3
"""That a direction cosine may differ: half a millimetre over half a metre."""
_SAME_SPACING = 1e-3
"""Of a pixel spacing, as a part of it."""
_SAME_PLACE = (1e-3, 0.05)
"""mm, and part of the mean step: images that lie closer than both lie at the same place."""

_WHOLE = {
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
"""Attributes that are the same all through a volume, with the functional group that has them: when, how, what of."""

_PART = {
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
"""Attributes that may change within a volume, but can tell volumes apart."""


class PlacedFrame(NamedTuple):
    """A frame and where it lies.

    Args:
        header: Its instance's header.
        number: Which of the instance's frames, 0-based.
        plane: Its place.
    """

    header: Dataset
    number: int
    plane: Plane


def why_no_series(headers: Sequence[Dataset]) -> str:
    """Why images are not of one patient and study; empty if they are.

    Args:
        headers: One an image.
    """
    for keyword in ("PatientID", "StudyInstanceUID"):
        values = [str(value_of(header, keyword)) for header in headers]
        if len(set(values)) > 1:
            found = f"they have {_counted(values)} of {_name(keyword)}; send those of one"
            return f"the {len(headers)} images are not one volume: {found}"
    return ""


def why_no_place(frames: Sequence[tuple[Dataset, int]], what: str = "images") -> str:
    """Why the places that frames state cannot be used, so that no other may be guessed for them.

    Args:
        frames: The header of each, and its number within it.
        what: They are: "images" or "frames".

    Returns:
        What was found; empty if each has a place, or none has.
    """
    places = [position_of(header, number) for header, number in frames]
    valid = {
        "ImagePositionPatient": [place is not None for place in places],
        "ImageOrientationPatient": [axes_of(header, number) is not None for header, number in frames],
    }
    where = f"the {len(frames)} {what} are not one volume:"
    for keyword, has_it in valid.items():
        if 0 < sum(has_it) < len(frames):
            return f"{where} {sum(has_it)} of them have a valid {_name(keyword)}; send those with or those without it"
    if not any(valid["ImageOrientationPatient"]) and len({tuple(place) for place in places if place is not None}) > 1:
        direction = _name("ImageOrientationPatient")
        return f"{where} they state different places, but no valid {direction}, two directions at a right angle"
    return ""


def why_no_volume(frames: Sequence[PlacedFrame], what: str = "images") -> str:
    """Why frames are not one volume.

    Gaps do not matter here, see :func:`lib.imaging.dicom.geometry.place_of`; but where they are uneven, what tells
    interleaved stacks apart is looked for more widely.

    Args:
        frames: In order of ``k``.
        what: They are: "images" or "frames".

    Returns:
        What was found, and what to send instead; empty if they are one volume.
    """
    if len(frames) == 1:
        return ""
    heights = np.array([frame.plane.position for frame in frames]) @ frames[0].plane.normal
    found = _different(frames) or _same_place(frames, heights, what) or _interleaved(frames, heights, what)
    gaps = np.diff(heights)
    if not found and not ((gaps > 0).all() or (gaps < 0).all()):
        found = "they are not in the order in which they lie; sort them by place"
    return f"the {len(frames)} {what} are not one volume: {found}" if found else ""


def _different(frames: Sequence[PlacedFrame]) -> str:
    """Other frames of reference, directions or spacings, or a localizer."""
    systems = [str(value_of(frame.header, "FrameOfReferenceUID")) for frame in frames]
    if len(set(systems)) > 1:
        return f"they have {_counted(systems)} of {_name('FrameOfReferenceUID')}; send those of one"
    axes = np.array([[frame.plane.row_direction, frame.plane.column_direction] for frame in frames])
    directions = _alike(axes.reshape(len(frames), 6), _PARALLEL)
    if len(set(directions)) > 1:
        return (
            f"they lie in different directions, {_counted(directions)} of {_name('ImageOrientationPatient')}, as a "
            "localizer among slices does; send those of one direction"
        )
    spacings = _alike(np.log([(f.plane.row_spacing, f.plane.column_spacing) for f in frames]), _SAME_SPACING)
    if len(set(spacings)) > 1:
        return f"they have {_counted(spacings)} of {_name('PixelSpacing')}; send those of one"
    localizers = ["LOCALIZER" in value for value in _values(frames, "ImageType", None)]
    if len(set(localizers)) > 1:
        return f"{sum(localizers)} of them are localizers by {_name('ImageType')}; send the others alone"
    return ""


def _same_place(frames: Sequence[PlacedFrame], heights: np.ndarray, what: str) -> str:
    ordered = np.sort(heights)
    least = max(_SAME_PLACE[0], _SAME_PLACE[1] * (ordered[-1] - ordered[0]) / (len(frames) - 1))
    places = np.concatenate([[0], np.cumsum(np.diff(ordered) >= least)])[np.argsort(np.argsort(heights, kind="stable"))]
    count = int(places.max()) + 1
    if count == len(frames):
        return ""
    where = f"they lie at {count} {'places' if count > 1 else 'place'}"
    varying = []
    for keyword, group in (_WHOLE | _PART).items():
        values = _values(frames, keyword, group)
        if len(set(values)) > 1 and len(set(zip(values, places, strict=True))) == len(frames):
            return f"{where}, as they have {_counted(values)} of {_name(keyword)}; send those of one"
        if len(set(values)) > 1 and keyword in _WHOLE:
            varying.append(_name(keyword))
    if varying:
        return f"{where}, as they differ in {' and '.join(varying)}; send those of one value of each"
    return f"{where}, and no attribute tells the {what} at the same place apart; send one for each place"


def _interleaved(frames: Sequence[PlacedFrame], heights: np.ndarray, what: str) -> str:
    """Groups of frames, told apart by an attribute, one of which begins before the other ends."""
    uneven = place_of([frame.plane for frame in frames])[1] is not None
    for keyword, group in (_WHOLE | _PART if uneven else _WHOLE).items():
        values = _values(frames, keyword, group)
        by_value: dict[str, list[float]] = {}
        for value, height in zip(values, heights.tolist(), strict=True):
            by_value.setdefault(value, []).append(height)
        ranges = sorted((min(some), max(some)) for some in by_value.values())
        if any(later[0] < earlier[1] for earlier, later in pairwise(ranges)):
            return f"{what} with {_counted(values)} of {_name(keyword)} lie between one another; send those of one"
    return ""


def _values(frames: Sequence[PlacedFrame], keyword: str, group: str | None) -> list[str]:
    """An attribute's values as text; what is not in a functional group is the same for all frames of an instance."""
    if group:
        return [_text(functional_group(frame.header, group, frame.number), keyword) for frame in frames]
    by_header = {id(frame.header): frame.header for frame in frames}
    known = {key: _text(header, keyword) for key, header in by_header.items()}
    return [known[id(frame.header)] for frame in frames]


def _text(source: Dataset, keyword: str) -> str:
    """An attribute's value; of Image Type and Frame Type what comes after "ORIGINAL" and "PRIMARY"."""
    value = value_of(source, keyword)
    if isinstance(value, (MultiValue, list)):
        return "\\".join(map(str, value[2:] if keyword in ("ImageType", "FrameType") else value))
    return str(value)


def _alike(values: np.ndarray, tolerance: float) -> list[int]:
    """A number for each row of values; rows that differ from the first of their kind by no more have the same."""
    numbers = np.full(len(values), -1)
    while (rest := numbers < 0).any():
        near = np.abs(values - values[rest.argmax()]).max(axis=1) <= tolerance
        numbers[rest & near] = numbers.max() + 1
    return [int(number) for number in numbers]


def _counted(values: Iterable[object]) -> str:
    """How many values there are, and how often each, without the values themselves."""
    counts = sorted(Counter(values).values(), reverse=True)
    often = ", ".join(map(str, counts[:6])) + (", ..." if len(counts) > 6 else "")
    return f"{len(counts)} values ({often} times)"


def _name(keyword: str) -> str:
    """An attribute by name and tag."""
    tag = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"

"""VOI windows, VOI LUTs and padding: how a DICOM image asks for its modality values to be displayed.

Windows are those of DICOM PS3.3 C.11.2.1.2, tables those of C.11.2.1.1; in enhanced objects both are in the Frame VOI
LUT macros (C.7.6.16.2.10, C.7.6.16.2.10b), for each frame or for all.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.header_values import functional_group, numbers, value_of
from lib.imaging.dicom.lut import read_entries, with_stated_sign
from lib.imaging.dicom.modality import modality_transform
from lib.imaging.image import CorruptImageError, Display, VoiLutFunction, VoiTable, VoiTransform, Window

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_PADDING = (
    ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
)


def frame_displays(headers: Sequence[Dataset], frames: np.ndarray) -> tuple[Display, ...]:
    """Return how the frames of an image are to be displayed.

    Args:
        headers: One for all frames, or one per frame.
        frames: ``(K, rows, columns)`` modality values.

    Returns:
        One per frame; only one if all are the same.
    """
    if len(headers) > 1:
        displays = [frame_display(header, 0, frames[k]) for k, header in enumerate(headers)]
    elif value_of(headers[0], "PerFrameFunctionalGroupsSequence"):
        displays = [frame_display(headers[0], k, frames[k]) for k in range(len(frames))]
    else:
        displays = [frame_display(headers[0], 0, frames)]
    return tuple(displays[:1] if len(set(displays)) == 1 else displays)


def frame_display(dataset: Dataset, frame: int, values: np.ndarray) -> Display:
    """Return how one frame is to be displayed, without invalid transforms.

    Tables come before windows: either may be applied, but a writer that adds a table intends it to be used.

    Args:
        dataset: The image's header.
        frame: 0-based.
        values: The frame's modality values, any shape.
    """
    group = functional_group(dataset, "FrameVOILUTSequence", frame)
    transforms = (*_tables(group, dataset, values), *_windows(group))
    is_stated = any(value_of(group, keyword) is not None for keyword in ("WindowWidth", "VOILUTSequence"))
    return Display(transforms, is_stated and not transforms, _padding(dataset, frame))


def _windows(group: Dataset) -> Iterator[Window]:
    """Yield the valid windows; a narrower LINEAR window than the standard allows can only mean LINEAR_EXACT."""
    function = str(value_of(group, "VOILUTFunction") or "LINEAR").strip().upper()
    if function not in _FUNCTIONS:
        return
    for center, width in zip(numbers(group, "WindowCenter"), numbers(group, "WindowWidth"), strict=False):
        exact = function == "LINEAR" and width < 1
        try:
            yield Window(center, width, "LINEAR_EXACT" if exact else cast(VoiLutFunction, function))
        except ValueError:
            continue


def _tables(group: Dataset, dataset: Dataset, values: np.ndarray) -> Iterator[VoiTransform]:
    for item in value_of(group, "VOILUTSequence") or ():
        try:
            entries, first = read_entries(item, dataset, descriptor="LUTDescriptor", data="LUTData")
        except CorruptImageError:
            continue
        bits = max(8, int(entries.max()).bit_length())  # descriptors often state 16 although entries have fewer bits
        outputs = np.rint(entries * (255 / (2**bits - 1))).astype(np.uint8)
        yield VoiTable(outputs.tobytes(), _signed_as(first, len(entries), values))


def _signed_as(first: int, count: int, values: np.ndarray) -> int:
    """Return the first value mapped with the sign for which the table covers most of the values.

    Writers confuse US and SS.
    """
    low, high = float(values.min()), float(values.max())

    def covered(start: int) -> float:
        return min(high, start + count - 1) - max(low, start)

    return max((first, first - 2**16, first + 2**16), key=covered)


def _padding(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Return the range from Pixel Padding Value to Range Limit (PS3.3 C.7.5.1.1.2) in modality values, inclusive."""
    for value_keyword, limit_keyword in _PADDING:
        value = numbers(dataset, value_keyword)
        if not value:
            continue
        limit = numbers(dataset, limit_keyword) or value
        if value_keyword != "PixelPaddingValue":
            return min(value[0], limit[0]), max(value[0], limit[0])
        transform = modality_transform(dataset, frame)
        ends = [transform.value(with_stated_sign(end[0], dataset)) for end in (value, limit)]
        return min(ends), max(ends)
    return None

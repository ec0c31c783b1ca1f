"""Attributes of a DICOM header as checked numbers, wherever a classic or an enhanced object stores them."""

import math
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from lib.imaging.image import CorruptImageError


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return an attribute's value; None if it is absent, empty or cannot be decoded."""
    try:
        value = dataset.get(keyword)
    except Exception:  # elements are decoded lazily; invalid content can raise any exception
        return None
    return None if value is None or (isinstance(value, str) and not value) else value


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return a numeric attribute's values; empty if it is absent, empty, not numeric or not finite."""
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    try:
        values = tuple(float(item) for item in (value if isinstance(value, (MultiValue, list, tuple)) else (value,)))
    except (TypeError, ValueError, OverflowError):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def integer(dataset: Dataset, keyword: str, *, default: int | None = None, minimum: int = 0) -> int:
    """Return an attribute that must be a single whole number.

    Args:
        dataset: A header.
        keyword: The attribute.
        default: Value if the attribute is absent or empty; None if it must be present.
        minimum: The smallest valid value.

    Raises:
        CorruptImageError: Absent without a default, or not a whole number of at least ``minimum``.
    """
    try:
        element_is_there = keyword in dataset and dataset[keyword].value not in (None, "")
    except Exception as error:
        raise CorruptImageError(f"the DICOM attribute {keyword} has no valid value") from error
    if not element_is_there and default is not None:
        return default
    values = numbers(dataset, keyword)
    if len(values) != 1 or values[0] != int(values[0]) or values[0] < minimum:
        raise CorruptImageError(f"the DICOM attribute {keyword} has no valid value")
    return int(values[0])


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames of an image that was read."""
    return int(value_of(dataset, "NumberOfFrames") or 1)


def functional_group(dataset: Dataset, sequence: str, frame: int) -> Dataset:
    """Return the item that holds a frame's attributes: DICOM PS3.3 C.7.6.16.

    Args:
        dataset: An image's header.
        sequence: A functional group macro's sequence, e.g. "PlanePositionSequence".
        frame: 0-based.

    Returns:
        The macro's item in the frame's functional groups, else in the shared ones, else ``dataset`` itself (where
        classic objects store the same attributes).
    """
    per_frame = value_of(dataset, "PerFrameFunctionalGroupsSequence") or []
    shared = value_of(dataset, "SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        items: list[Dataset] | None = value_of(groups, sequence)
        if items:
            return items[0]
    return dataset

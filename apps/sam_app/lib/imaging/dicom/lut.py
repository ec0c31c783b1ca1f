"""Lookup tables as DICOM stores them: PS3.3 C.11.1.1.1 (Modality LUT), C.11.2.1.1 (VOI LUT), C.7.6.3.1.5 (palettes)."""

from typing import Any

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.header_values import integer, numbers, value_of
from lib.imaging.image import CorruptImageError


def read_lut(item: Dataset, dataset: Dataset, *, descriptor: str, data: str) -> tuple[np.ndarray, int]:
    """Read a lookup table for stored pixel values.

    Args:
        item: Data set that holds the table.
        dataset: The image's header, for its byte order and Pixel Representation.
        descriptor: Keyword of the table's descriptor (count, first stored value mapped, bits).
        data: Keyword of the table's data.

    Returns:
        ``(count,)`` uint16 entries, and the stored value of the first one; lower values get the first entry, values
        above the last entry get the last.

    Raises:
        CorruptImageError: As for :func:`read_entries`.
    """
    entries, first = read_entries(item, dataset, descriptor=descriptor, data=data)
    return entries, int(with_stated_sign(first, dataset))


def read_entries(item: Dataset, dataset: Dataset, *, descriptor: str, data: str) -> tuple[np.ndarray, int]:
    """Read a lookup table of 8- or 16-bit entries.

    Args:
        item: Data set that holds the table.
        dataset: The image's header, for its byte order.
        descriptor: Keyword of the table's descriptor (count, first value mapped, bits).
        data: Keyword of the table's data.

    Returns:
        ``(count,)`` uint16 entries, and the first value mapped, with the stated sign.

    Raises:
        CorruptImageError: The table is missing or has fewer entries than the descriptor says.
    """
    description = numbers(item, descriptor)
    values: Any = value_of(item, data)
    if len(description) != 3 or values is None:
        raise CorruptImageError("a lookup table of the DICOM image is damaged")
    count = int(description[0]) % 2**16 or 2**16  # stored as SS, a count above 32767 is negative
    if isinstance(values, bytes):
        order = ">" if dataset.original_encoding[1] is False else "<"
        words = description[2] > 8 or len(values) >= 2 * count
        usable = values[: count * 2] if words else values[:count]
        table = np.frombuffer(usable[: len(usable) // 2 * 2 if words else None], f"{order}u2" if words else np.uint8)
    else:
        table = np.atleast_1d(np.asarray(values)).astype("<u2")
        if len(table) < count and description[2] <= 8:  # two 8-bit entries in each word
            table = table.view(np.uint8)
    if len(table) < count:
        raise CorruptImageError("a lookup table of the DICOM image is damaged")
    return table[:count].astype(np.uint16), int(description[1])


def apply_lut(stored: np.ndarray, table: np.ndarray, first_mapped: int) -> np.ndarray:
    """Look up stored values (any shape) in a table from :func:`read_lut`."""
    return table[np.clip(stored.astype(np.int64) - first_mapped, 0, len(table) - 1)]


def with_stated_sign(value: float, dataset: Dataset) -> float:
    """Return a value of VR US or SS (writers confuse them) with the sign that Pixel Representation requires."""
    bits = integer(dataset, "BitsAllocated", minimum=1)
    if integer(dataset, "PixelRepresentation", default=0) == 1:
        if value >= 2**15 and bits < 16:
            return value - 2**16
        return value - 2**bits if value >= 2 ** (bits - 1) else value
    return value + 2**bits if value < 0 else value

"""Modality LUT: from stored values to modality values (Hounsfield units for CT), DICOM PS3.3 C.11.1.

In enhanced objects it is the Pixel Value Transformation macro (C.7.6.16.2.9).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from lib.imaging.decoding.piecewise import finite, piecewise
from lib.imaging.dicom.header_values import functional_group, integer, numbers, value_of
from lib.imaging.dicom.lut import apply_lut, read_lut
from lib.imaging.image import CorruptImageError

_INTEGER_TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
_CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage)


@dataclass(frozen=True, eq=False)
class ModalityTransform:
    """Transform of one frame from stored values to modality values.

    Args:
        slope: Rescale Slope (0028,1053).
        intercept: Rescale Intercept (0028,1052).
        table: Modality LUT Data (0028,3006), used instead of slope and intercept; None if there is none.
        first_mapped: Stored value of the table's first entry.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: np.ndarray | None = None
    first_mapped: int = 0

    def value(self, stored: float) -> float:
        """Return the modality value of one stored value."""
        if self.table is None:
            return stored * self.slope + self.intercept
        return float(self.table[int(np.clip(stored - self.first_mapped, 0, len(self.table) - 1))])

    def output_type(self, low: int, high: int) -> np.dtype:
        """Return the smallest dtype that holds the modality values of stored values from ``low`` to ``high``."""
        if self.table is not None:
            return self.table.dtype
        if self.slope != int(self.slope) or self.intercept != int(self.intercept):
            return np.dtype(np.float32 if high - low < 2**24 else np.float64)
        ends = (self.value(low), self.value(high))
        for kind in _INTEGER_TYPES if high - low < 256 else _INTEGER_TYPES[1:]:
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
                return np.dtype(kind)
        return np.dtype(np.float64)

    def apply(self, stored: np.ndarray, output_type: np.dtype) -> np.ndarray:
        """Transform an array of stored values (any shape) to ``output_type``."""
        if self.table is not None:
            return apply_lut(stored, self.table, self.first_mapped).astype(output_type)
        if (self.slope, self.intercept) == (1.0, 0.0):
            return stored.astype(output_type)
        return (stored * self.slope + self.intercept).astype(output_type)


def to_modality_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Apply each frame's Modality LUT to its stored values.

    Args:
        stored: ``(K, rows, columns)`` stored values.
        dataset: The image's header.

    Returns:
        ``(K, rows, columns)``: if slope and intercept are whole numbers, the smallest integer dtype that holds all
        values that Bits Stored allows (from 16 bits on: all values that occur); else float32 (float64 above 24 bits).
        RT Dose's Dose Grid Scaling is not a Modality LUT and is not applied.

    Raises:
        CorruptImageError: An invalid slope or table.
    """
    if stored.dtype.kind == "f":
        return finite(stored)
    low, high = _stored_range(stored, dataset)
    transforms = [modality_transform(dataset, frame) for frame in range(len(stored))]
    output_type = np.result_type(*{transform.output_type(low, high) for transform in transforms})
    values = np.empty(stored.shape, output_type)
    for frame, transform in enumerate(transforms):
        piecewise(partial(transform.apply, output_type=output_type), stored[frame], values[frame])
    return values


def modality_transform(dataset: Dataset, frame: int) -> ModalityTransform:
    """Return the Modality LUT of a frame, counted from 0; the identity if there is none.

    Raises:
        CorruptImageError: An invalid slope or table.
    """
    tables = value_of(dataset, "ModalityLUTSequence")
    if tables:
        table, first = read_lut(tables[0], dataset, descriptor="LUTDescriptor", data="LUTData")
        return ModalityTransform(table=table, first_mapped=first)
    group = functional_group(dataset, "PixelValueTransformationSequence", frame)
    slope, intercept = numbers(group, "RescaleSlope"), numbers(group, "RescaleIntercept")
    if slope and slope[0] == 0:
        raise CorruptImageError("the DICOM image's Rescale Slope is 0")
    return ModalityTransform(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)


def states_hounsfield(dataset: Dataset, frame: int) -> bool | None:
    """Return whether a frame's header says that its modality values are Hounsfield units: PS3.3 C.11.1.1.2.

    A CT need not say so (C.8.2.1.1.2), and may contain other values: a localizer, a perfusion map, counts of a
    micro-CT.

    Args:
        dataset: The image's header.
        frame: 0-based.

    Returns:
        None for a CT that does not say; its values must decide.
    """
    tables = value_of(dataset, "ModalityLUTSequence")
    if tables:
        stated = value_of(tables[0], "ModalityLUTType")
    else:
        stated = value_of(functional_group(dataset, "PixelValueTransformationSequence", frame), "RescaleType")
    if stated:
        return str(stated).strip().upper() == "HU"
    is_ct = value_of(dataset, "Modality") == "CT" or value_of(dataset, "SOPClassUID") in _CT_CLASSES
    is_localizer = "LOCALIZER" in (value_of(dataset, "ImageType") or ())
    return None if is_ct and not is_localizer else False


def _stored_range(stored: np.ndarray, dataset: Dataset) -> tuple[int, int]:
    """Return the range that Bits Stored allows; from 16 bits on, of which a CT uses few, the range that occurs."""
    bits = integer(dataset, "BitsStored", minimum=1)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0, 2**bits - 1)
    found = int(stored.min()), int(stored.max())
    if bits >= 16:
        return min(found[0], 0), max(found[1], 256)
    return min(found[0], low), max(found[1], high)

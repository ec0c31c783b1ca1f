"""Completion of the Image Pixel attributes (DICOM PS3.3 C.7.6.3), of which writers omit what they find obvious.

A missing attribute is derived from the others, from the length of the pixel data or from the compressed frame itself.
If that is not possible, the error names the attribute.
"""

from typing import Any, NamedTuple

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

from lib.imaging.decoding.codestream import read_codestream
from lib.imaging.decoding.frame_decoders import FRAME_DECODERS
from lib.imaging.dicom.header_values import integer, numbers, value_of
from lib.imaging.image import CorruptImageError

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"

_PIXEL_VALUE_KEYWORDS = (
    *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
"""Attributes whose VR (SS or US) says whether pixels are signed."""


class _Layout(NamedTuple):
    """Layout found in the pixel data themselves; None where it cannot be found."""

    samples: int | None = None
    bits_allocated: int | None = None
    bits_stored: int | None = None


def complete_pixel_attributes(dataset: Dataset) -> None:
    """Add missing Image Pixel attributes to a header and convert stated ones to numbers.

    Args:
        dataset: A complete data set with ``file_meta``; changed in place.

    Raises:
        CorruptImageError: An attribute that cannot be derived or has an invalid value; the message names it.
    """
    layout = _layout(dataset)
    photometric = str(value_of(dataset, "PhotometricInterpretation") or "").strip(" \0").upper()
    samples = _stated(dataset, "SamplesPerPixel")
    if samples is None:
        samples = 3 if photometric in COLOUR else 1 if photometric else layout.samples
    if samples is None:
        raise CorruptImageError("the DICOM attributes SamplesPerPixel and PhotometricInterpretation are missing")
    _set(dataset, "SamplesPerPixel", "US", samples)
    _set(dataset, "PhotometricInterpretation", "CS", photometric or _usual_photometric(dataset, samples))
    if samples > 1:
        _set(dataset, "PlanarConfiguration", "US", _stated(dataset, "PlanarConfiguration", highest=1) or 0)
    allocated = _stated(dataset, "BitsAllocated", lowest=1) or layout.bits_allocated
    if allocated is None:
        raise CorruptImageError("the DICOM attribute BitsAllocated is missing; it cannot be derived from pixel data")
    stored = _stated(dataset, "BitsStored", lowest=1) or layout.bits_stored or allocated
    stored = min(stored, allocated)
    high_bit = _stated(dataset, "HighBit")
    sign = _stated(dataset, "PixelRepresentation", highest=1)
    _set(dataset, "BitsAllocated", "US", allocated)
    _set(dataset, "BitsStored", "US", stored)
    _set(dataset, "HighBit", "US", stored - 1 if high_bit is None else high_bit)
    _set(dataset, "PixelRepresentation", "US", _usual_sign(dataset) if sign is None else sign)


def _stated(dataset: Dataset, keyword: str, *, lowest: int = 0, highest: int = 2**16 - 1) -> int | None:
    """Return an attribute's value, even if stated once per sample; None if it is absent or empty.

    Raises:
        CorruptImageError: Not a whole number within the bounds.
    """
    values = set(numbers(dataset, keyword))
    if len(values) == 1:
        [value] = values
        if value == int(value) and lowest <= value <= highest:
            return int(value)
        raise CorruptImageError(f"the DICOM attribute {keyword} has no valid value")
    absent = lowest - 1
    value = integer(dataset, keyword, default=absent)
    return None if value == absent else value


def _set(dataset: Dataset, keyword: str, vr: str, value: Any) -> None:
    if keyword not in dataset or vr != dataset[keyword].VR or dataset[keyword].value != value:
        dataset.add_new(keyword, vr, value)


def _usual_photometric(dataset: Dataset, samples: int) -> str:
    """Return the usual Photometric Interpretation of pixels with this number of samples."""
    if samples == 1:
        return PALETTE if "RedPaletteColorLookupTableDescriptor" in dataset else "MONOCHROME2"
    return "YBR_FULL_422" if dataset.file_meta.TransferSyntaxUID in (JPEGBaseline8Bit, JPEGExtended12Bit) else "RGB"


def _usual_sign(dataset: Dataset) -> int:
    """Return 0 (unsigned), or 1 if an attribute of pixel values is stated as signed."""
    return int(any(keyword in dataset and dataset[keyword].VR == "SS" for keyword in _PIXEL_VALUE_KEYWORDS))


def _layout(dataset: Dataset) -> _Layout:
    """Return the layout found in the pixel data; empty if they cannot be read (their decoder reports that)."""
    if "FloatPixelData" in dataset:
        return _Layout(1, 32)
    if "DoubleFloatPixelData" in dataset:
        return _Layout(1, 64)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    frames = integer(dataset, "NumberOfFrames", default=1, minimum=1)
    if syntax not in FRAME_DECODERS and syntax != RLELossless:
        pixels = frames * integer(dataset, "Rows", minimum=1) * integer(dataset, "Columns", minimum=1)
        count, rest = divmod(len(dataset.PixelData), pixels)
        return _layout_of_bytes(count, dataset) if rest <= 1 else _Layout()  # padded to an even length
    try:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=frames))
    except Exception:  # damaged items or offset tables can raise any exception
        return _Layout()
    if syntax == RLELossless:  # PS3.5 G.5: each byte of each sample is a segment
        return _layout_of_bytes(int.from_bytes(frame[:4], "little"), dataset)
    header = read_codestream(frame)
    if header is None or header.precision is None:
        return _Layout()
    return _Layout(header.components, 8 if header.precision <= 8 else 16, header.precision)


def _layout_of_bytes(count: int, dataset: Dataset) -> _Layout:
    """Return the layout of pixels with this many bytes each; three samples if the count is divisible by three."""
    samples = _stated(dataset, "SamplesPerPixel", lowest=1) or (3 if count % 3 == 0 else 1)
    depth = 8 * count // samples
    return _Layout(samples, depth) if depth in (8, 16, 32) and depth * samples == 8 * count else _Layout()

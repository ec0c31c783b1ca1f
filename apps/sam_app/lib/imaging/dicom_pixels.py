"""From Pixel Data, in any transfer syntax that is read, to stored values or RGB.

Each transfer syntax has one decoder, so that what else is installed never changes the result: pydicom itself for
uncompressed and RLE, Pillow for 8-bit JPEG, OpenJPEG for JPEG 2000, GDCM for 12-bit and lossless JPEG and JPEG-LS.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import openjpeg
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import generate_pixel_data_frame
from pydicom.pixel_data_handlers import gdcm_handler, numpy_handler, rle_handler
from pydicom.pixel_data_handlers.util import apply_color_lut, convert_color_space, reshape_pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessP14,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lib.imaging.codestream import Codestream, read_codestream
from lib.imaging.dicom_values import integer, numbers, value_of
from lib.imaging.guard import corrupt_on_failure
from lib.imaging.image import CorruptImageError, UnsupportedImageError
from lib.imaging.lut import apply_lut, read_lut

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_JPEG_8_BIT = (JPEGBaseline8Bit, JPEGExtended12Bit)
_JPEG_2000 = (JPEG2000Lossless, JPEG2000)
_BY_GDCM = (JPEGExtended12Bit, JPEGLosslessP14, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless)
_ENCAPSULATED = frozenset((*_JPEG_8_BIT, *_JPEG_2000, *_BY_GDCM))
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_UNDECODABLE = "the DICOM image's pixel data are truncated, damaged or contradict its header"


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """Decode all frames of an image.

    Args:
        dataset: A whole data set with ``file_meta``; not changed. Its size limits are checked by the caller.

    Returns:
        Stored values before the Modality LUT, ``(K, rows, columns)``, native byte order, cut to Bits Stored and
        sign-extended (float for Float Pixel Data); or ``(K, rows, columns, 3)`` uint8 RGB for colour of any
        Photometric Interpretation (PS3.3 C.7.6.3.1.2), deeper samples cut to their upper 8 bits.

    Raises:
        UnsupportedImageError: A transfer syntax or Photometric Interpretation that is not read.
        CorruptImageError: The pixel data cannot be decoded or contradict the header.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in _ENCAPSULATED and syntax not in (*_NATIVE, RLELossless):
        raise UnsupportedImageError(f"DICOM images compressed as {_name(syntax)} are not read")
    photometric = value_of(dataset, "PhotometricInterpretation")
    if photometric not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        raise UnsupportedImageError(f"DICOM images of the Photometric Interpretation {photometric} are not read")
    samples = integer(dataset, "SamplesPerPixel", default=1)
    if samples != (3 if photometric in _COLOUR else 1):
        raise CorruptImageError(f"the DICOM image has {samples} samples per pixel, but is {photometric}")
    frame_count = integer(dataset, "NumberOfFrames", default=1)
    shape = (frame_count, integer(dataset, "Rows"), integer(dataset, "Columns"))
    with corrupt_on_failure(_UNDECODABLE):
        if syntax in _ENCAPSULATED:
            values = _decode_encapsulated(dataset, syntax, shape, samples)
        else:
            handler = rle_handler if syntax == RLELossless else numpy_handler
            values = reshape_pixel_array(dataset, handler.get_pixeldata(dataset))
        values = values.reshape(*shape, *([3] if samples == 3 else []))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if photometric in _GREY:
            return _stored_values(values, dataset) if values.dtype.kind in "ui" else values
        if photometric == "PALETTE COLOR":
            return _palette_colours(_stored_values(values, dataset), dataset)
        values = _upper_byte(values, integer(dataset, "BitsStored"))
        if photometric.startswith("YBR_FULL") and syntax not in _JPEG_8_BIT:
            for frame in range(frame_count):  # the conversion takes 8 bytes a sample for a while
                values[frame] = convert_color_space(values[frame], "YBR_FULL", "RGB")
        return values


def _decode_encapsulated(dataset: Dataset, syntax: UID, shape: tuple[int, int, int], samples: int) -> np.ndarray:
    """Decode JPEG, JPEG-LS or JPEG 2000 frames, each checked against the header first."""
    frames = _checked_frames(dataset, shape, samples)
    if syntax in _JPEG_2000:
        return _stack((_decode_jpeg_2000(frame) for frame, _ in frames), shape, samples)
    precision = next(header.precision for _, header in _checked_frames(dataset, shape, samples))
    if syntax in _JPEG_8_BIT and precision == 8:
        is_rgb = dataset.PhotometricInterpretation == "RGB"
        return _stack((_decode_jpeg(frame, header, is_rgb) for frame, header in frames), shape, samples)
    if syntax not in _BY_GDCM:
        raise CorruptImageError(f"the DICOM image states {_name(syntax)}, but its samples have {precision} bits")
    for _ in frames:
        pass  # GDCM decodes all frames at once, so all must have passed the check
    return reshape_pixel_array(dataset, gdcm_handler.get_pixeldata(dataset))


def _checked_frames(dataset: Dataset, shape: tuple[int, int, int], samples: int) -> Iterator[tuple[bytes, Codestream]]:
    """The compressed frames, as many as the header states, each of the header's size."""
    count = 0
    for frame in generate_pixel_data_frame(dataset.PixelData, shape[0]):
        header = read_codestream(frame)
        if header is None or (header.rows, header.columns, header.components) != (*shape[1:], samples):
            raise CorruptImageError("the size of a compressed frame contradicts the DICOM header")
        count += 1
        if count > shape[0]:
            break
        yield frame, header
    if count != shape[0]:
        raise CorruptImageError(f"the DICOM header states {shape[0]} frames, but the pixel data hold another number")


def _stack(frames: Iterator[np.ndarray], shape: tuple[int, int, int], samples: int) -> np.ndarray:
    """Frames into one array, without holding them twice."""
    first = next(frames)
    stacked = np.empty((*shape, *([samples] if samples > 1 else [])), first.dtype)
    stacked[0] = first
    for index, frame in enumerate(frames, start=1):
        stacked[index] = frame
    return stacked


def _decode_jpeg_2000(frame: bytes) -> np.ndarray:
    """One JPEG 2000 frame; its own multiple component transform is undone by the decoder."""
    return openjpeg.decode(frame[frame.find(b"\xff\x4f\xff\x51") :])


def _decode_jpeg(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """One 8-bit JPEG frame.

    Decoders take a JPEG without an Adobe marker for YCbCr. DICOM says what it is in the Photometric Interpretation
    (PS3.5 8.2.1), so a marker (ITU-T T.872) that repeats this is put into such a frame; a JFIF marker, which would
    win over it and is often wrong in RGB frames, is made unreadable. A frame with subsampled components is YCbCr
    whatever the header says.
    """
    is_rgb = is_rgb and not header.is_subsampled
    if header.components == 3 and not header.has_adobe_marker:
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if is_rgb else b"\x01")
        start = frame[:32].replace(b"JFIF\x00", b"none\x00") if is_rgb else frame[:32]
        frame = start[:2] + adobe + start[2:] + frame[32:]
    with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
        return np.asarray(image.convert("L" if header.components == 1 else "RGB"))


def _stored_values(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Cut to Bits Stored below High Bit (overlays can lie above) and extend the sign: PS3.5 8.1.1.

    A JPEG 2000 codestream says itself whether it is signed, and is believed where the header differs.
    """
    if values.dtype.kind == "i" and dataset.file_meta.TransferSyntaxUID in _JPEG_2000:
        return values
    width = values.dtype.itemsize * 8
    stored = min(integer(dataset, "BitsStored", minimum=1), width)
    high_bit = stored - 1
    if dataset.file_meta.TransferSyntaxUID not in _ENCAPSULATED:
        high_bit = integer(dataset, "HighBit", default=stored - 1)
    if integer(dataset, "BitsAllocated") < 8 or not stored - 1 <= high_bit < width:
        return values
    signed = integer(dataset, "PixelRepresentation", default=0) == 1
    unsigned_type = values.dtype.str.replace("i", "u")
    target = unsigned_type.replace("u", "i") if signed else unsigned_type
    if stored == width:
        return values.view(target)
    return (values.view(unsigned_type) << (width - 1 - high_bit)).view(target) >> (width - stored)


def _palette_colours(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look the colours up: ``(K, rows, columns)`` to ``(K, rows, columns, 3)`` uint8, PS3.3 C.7.9."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        bits = numbers(dataset, "RedPaletteColorLookupTableDescriptor")[2]
        return np.ascontiguousarray(_upper_byte(apply_color_lut(stored, dataset), int(bits)))
    colours = np.empty((*stored.shape, 3), np.uint8)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        descriptor = f"{name}PaletteColorLookupTableDescriptor"
        table, first = read_lut(dataset, dataset, descriptor=descriptor, data=f"{name}PaletteColorLookupTableData")
        colours[..., channel] = apply_lut(stored, _upper_byte(table, int(numbers(dataset, descriptor)[2])), first)
    return colours


def _upper_byte(values: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned samples of ``bits`` bits to uint8; samples that need no more than 8 bits stay as they are."""
    if values.dtype == np.uint8:
        return values if values.flags.writeable else values.copy()
    return (values >> max(bits - 8, 0) if values.max() > 255 else values).astype(np.uint8)


def _name(syntax: UID) -> str:
    """A transfer syntax in words, or its UID."""
    return syntax.name if syntax.name != syntax else f"transfer syntax {syntax}"

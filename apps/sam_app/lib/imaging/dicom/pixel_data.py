"""Decoding of Pixel Data, in all supported transfer syntaxes, to stored values or RGB.

pydicom reads uncompressed and RLE pixel data; the other decoders are in :mod:`lib.imaging.decoding.frame_decoders`.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import UID

from lib.imaging.decoding.codestream import Codestream, read_codestream
from lib.imaging.decoding.frame_decoders import FRAME_DECODERS, JPEGXL, FrameDecoder, decode_frame
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.decoding.piecewise import piecewise
from lib.imaging.dicom.header_values import integer, numbers, value_of
from lib.imaging.dicom.lut import apply_lut, read_lut
from lib.imaging.dicom.pixel_attributes import COLOUR, GREY, PALETTE
from lib.imaging.image import CorruptImageError, UnsupportedImageError

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_BY_PYDICOM = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.RLELossless,
)
_BYTES_PER_SAMPLE, _JPEG_XL_BYTES_PER_SAMPLE = 32, 48
"""For one frame while it is decoded: OpenJPEG needs about 12, libjxl 40, the conversion of YCbCr 8."""
_UNDECODABLE = "the DICOM image's pixel data are truncated, damaged or contradict its header"


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """Decode all frames of an image to stored values or RGB.

    Args:
        dataset: A complete data set with ``file_meta`` and all Image Pixel attributes; not changed. The caller checks
            the size limits.

    Returns:
        Stored values before the Modality LUT, ``(K, rows, columns)``, native byte order, cut to Bits Stored and
        sign-extended (float for Float Pixel Data); or ``(K, rows, columns, 3)`` uint8 RGB for colour of any Photometric
        Interpretation (PS3.3 C.7.6.3.1.2), deeper samples reduced to their upper 8 bits.

    Raises:
        UnsupportedImageError: An unsupported transfer syntax or Photometric Interpretation.
        CorruptImageError: The pixel data cannot be decoded or contradict the header.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    decoder = FRAME_DECODERS.get(syntax)
    if decoder is None and syntax not in _BY_PYDICOM:
        raise UnsupportedImageError(
            f"DICOM images compressed as {_name(syntax)} are not supported; send uncompressed, RLE, JPEG, JPEG-LS, "
            "JPEG 2000 or JPEG XL"
        )
    photometric = value_of(dataset, "PhotometricInterpretation")
    if photometric not in (*GREY, *COLOUR, PALETTE):
        raise UnsupportedImageError(f"DICOM images of the Photometric Interpretation {photometric} are not supported")
    samples = integer(dataset, "SamplesPerPixel", default=1)
    if samples != (3 if photometric in COLOUR else 1):
        raise CorruptImageError(f"the DICOM image has {samples} samples per pixel, but is {photometric}")
    frame_count = integer(dataset, "NumberOfFrames", default=1)
    shape = (frame_count, integer(dataset, "Rows"), integer(dataset, "Columns"))
    with corrupt_on_failure(_UNDECODABLE):
        if decoder is not None:
            values = _decode_compressed(dataset, shape, samples)
        else:
            values = _decode_by_pydicom(dataset, syntax)
        values = values.reshape(*shape, *([3] if samples == 3 else []))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if photometric in GREY:
            return _stored_values(values, dataset, decoder) if values.dtype.kind in "ui" else values
        if photometric == PALETTE:
            return _palette_colours(_stored_values(values, dataset, decoder), dataset)
        values = _upper_byte(values, integer(dataset, "BitsStored"))
        if photometric.startswith("YBR_FULL") and not (decoder and decoder.converts_to_rgb):
            for frame in range(frame_count):  # frame by frame: the conversion needs 8 bytes per sample
                values[frame] = convert_color_space(values[frame], "YBR_FULL", "RGB")
        return values


def decoding_bytes(dataset: Dataset, shape: tuple[int, int, int]) -> int:
    """Return the peak memory of decoding to modality values or RGB, in bytes as counted by :func:`.isolation.claim`.

    Args:
        dataset: Must have all Image Pixel attributes.
        shape: ``(frames, rows, columns)``.
    """
    photometric, samples = value_of(dataset, "PhotometricInterpretation"), integer(dataset, "SamplesPerPixel")
    stored = math.ceil(integer(dataset, "BitsAllocated") / 8)
    result_bytes = 6 if photometric in (*COLOUR, PALETTE) else 4 if stored <= 2 else 8
    is_jpeg_xl = FRAME_DECODERS.get(UID(dataset.file_meta.TransferSyntaxUID)) == FRAME_DECODERS[JPEGXL]
    decoding = samples * (_JPEG_XL_BYTES_PER_SAMPLE if is_jpeg_xl else _BYTES_PER_SAMPLE)
    return math.prod(shape) * (2 * stored * samples + 3 * result_bytes) + math.prod(shape[1:]) * decoding


def _decode_by_pydicom(dataset: Dataset, syntax: UID) -> np.ndarray:
    """Decode all frames with pydicom, without converting the colour space or clearing unused bits."""
    plugin = "pydicom" if syntax == uid.RLELossless else ""  # even if other plugins are installed
    options: Any = {"raw": True, "correct_unused_bits": False, "decoding_plugin": plugin}
    return get_decoder(syntax).as_array(dataset, **options)[0]


def _decode_compressed(dataset: Dataset, shape: tuple[int, int, int], samples: int) -> np.ndarray:
    """Decode all frames into one array, each checked against the header before it is decoded."""
    is_rgb = value_of(dataset, "PhotometricInterpretation") == "RGB"
    syntax, size = str(dataset.file_meta.TransferSyntaxUID), (*shape[1:], *([samples] if samples > 1 else []))
    stacked = np.empty(0)
    for index, (frame, header) in enumerate(_checked_frames(dataset, shape, samples)):
        decoded = decode_frame(syntax, frame, header, is_rgb)
        if index == 0:
            stacked = np.empty((shape[0], *size), decoded.dtype)
        if decoded.shape != size:
            raise CorruptImageError("the size of a compressed frame contradicts the DICOM header")
        stacked[index] = decoded
    return stacked


def _checked_frames(dataset: Dataset, shape: tuple[int, int, int], samples: int) -> Iterator[tuple[bytes, Codestream]]:
    """Yield the compressed frames; their number and sizes must be those of the header."""
    count, allocated = 0, integer(dataset, "BitsAllocated", minimum=1)
    for frame in generate_frames(dataset.PixelData, number_of_frames=shape[0]):
        header = read_codestream(frame)
        if header is None or (header.rows, header.columns) != shape[1:] or header.components not in (None, samples):
            raise CorruptImageError("the size of a compressed frame contradicts the DICOM header")
        if (header.precision or 0) > allocated:
            raise CorruptImageError(
                f"the samples of a compressed frame have {header.precision} bits, Bits Allocated is {allocated}"
            )
        count += 1
        if count > shape[0]:
            break
        yield frame, header
    if count != shape[0]:
        raise CorruptImageError(f"the DICOM header states {shape[0]} frames, but the pixel data hold another number")


def _stored_values(values: np.ndarray, dataset: Dataset, decoder: FrameDecoder | None) -> np.ndarray:
    """Cut values to Bits Stored below High Bit (overlays can be above it) and extend the sign: PS3.5 8.1.1.

    If a codestream states itself whether it is signed, that takes precedence over the header. Decoded unsigned samples
    are not cut: a codestream contains no overlays.
    """
    if values.dtype.kind == "i" and decoder is not None and decoder.states_sign:
        return values
    width = values.dtype.itemsize * 8
    stored = min(integer(dataset, "BitsStored", minimum=1), width)
    high_bit = stored - 1
    if decoder is None:
        high_bit = integer(dataset, "HighBit", default=stored - 1)
    if integer(dataset, "BitsAllocated") < 8 or not stored - 1 <= high_bit < width:
        return values
    signed = integer(dataset, "PixelRepresentation", default=0) == 1
    if decoder is not None and not signed:
        return values
    unsigned_type = values.dtype.str.replace("i", "u")
    target = unsigned_type.replace("u", "i") if signed else unsigned_type
    if stored == width:
        return values.view(target)

    def cut(piece: np.ndarray) -> np.ndarray:
        return (piece.view(unsigned_type) << (width - 1 - high_bit)).view(target) >> (width - stored)

    return piecewise(cut, values, np.empty(values.shape, target))


def _palette_colours(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look up palette colours: ``(K, rows, columns)`` to ``(K, rows, columns, 3)`` uint8, PS3.3 C.7.9."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        bits = numbers(dataset, "RedPaletteColorLookupTableDescriptor")[2]
        return np.ascontiguousarray(_upper_byte(apply_color_lut(stored, dataset), int(bits)))
    colours = np.empty((*stored.shape, 3), np.uint8)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        descriptor = f"{name}PaletteColorLookupTableDescriptor"
        table, first = read_lut(dataset, dataset, descriptor=descriptor, data=f"{name}PaletteColorLookupTableData")
        table = _upper_byte(table, int(numbers(dataset, descriptor)[2]))
        look_up = partial(apply_lut, table=table, first_mapped=first)
        colours[..., channel] = piecewise(look_up, stored, np.empty(stored.shape, np.uint8))
    return colours


def _upper_byte(values: np.ndarray, bits: int) -> np.ndarray:
    """Reduce unsigned samples of ``bits`` bits to uint8; samples that fit into 8 bits are not changed."""
    if values.dtype == np.uint8:
        return values if values.flags.writeable else values.copy()
    shift = max(bits - 8, 0) if values.max() > 255 else 0
    return piecewise(lambda piece: (piece >> shift).astype(np.uint8), values, np.empty(values.shape, np.uint8))


def _name(syntax: UID) -> str:
    """Return a transfer syntax's name, or its UID if it has none."""
    return syntax.name if syntax.name != syntax else f"transfer syntax {syntax}"

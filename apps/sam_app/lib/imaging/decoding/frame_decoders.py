"""One compressed frame of DICOM Pixel Data to an array, by the decoders of imagecodecs.

They are libjpeg-turbo, CharLS, OpenJPEG, OpenJPH and libjxl. Each transfer syntax has one of them, so that what else is
installed never changes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from lib.imaging.decoding.codestream import Codestream, check_scans

_END = b"\xff\xd9"
_FILLER = b"\x55\xa3" * 32

JPEGXLLossless = UID("1.2.840.10008.1.2.4.110")
JPEGXLJPEGRecompression = UID("1.2.840.10008.1.2.4.111")
JPEGXL = UID("1.2.840.10008.1.2.4.112")


class FrameDecoder(NamedTuple):
    """How the frames of some transfer syntaxes are decoded.

    Args:
        decode: From the frame, what its header says, and whether the DICOM header says that it is RGB, to
            ``(rows, columns)`` or ``(rows, columns, samples)``, uint8, uint16 or int16.
        is_ycbcr_undone: Whether what comes out is RGB where YCbCr went in.
        tells_sign: Whether the frame itself says whether its samples are signed.
    """

    decode: Callable[[bytes, Codestream, bool], np.ndarray]
    is_ycbcr_undone: bool = False
    tells_sign: bool = False


def _decode_jpeg(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """Any JPEG process of ITU-T T.81: 8 and 12 bits, lossless from 2 to 16.

    Decoders take a JPEG with three components for YCbCr unless an Adobe marker (ITU-T T.872) tells. DICOM says what it
    is in the Photometric Interpretation (PS3.5 8.2.1). A frame with subsampled components is YCbCr whatever the DICOM
    header says; a lossless frame is as it is.
    """
    check_scans(frame)
    colours: dict[str, Any] = {}
    if header.components == 3 and not header.is_lossless:
        stored = "RGB" if is_rgb and not header.is_subsampled else "YCBCR"
        colours = {"colorspace": None if header.has_adobe_marker else stored, "outcolorspace": "RGB"}
    return imagecodecs.jpeg8_decode(with_end(frame), **colours)


def _decode_jpeg_2000(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """The codestream, taken out of a JP2 file's boxes; its own multiple component transform is undone."""
    return imagecodecs.jpeg2k_decode(_complete_jpeg_2000(frame[header.start :]))


def _decode_htj2k(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """High-Throughput JPEG 2000 (ITU-T T.814), likewise."""
    return imagecodecs.htj2k_decode(_complete_jpeg_2000(frame[header.start :]))


def _decode_jpeg_ls(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """JPEG-LS (ITU-T T.87), components interleaved in any way."""
    return imagecodecs.jpegls_decode(frame if _is_terminated(frame) else frame + _END)


def _decode_jpeg_xl(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """JPEG XL (ISO/IEC 18181), its own colour transform undone."""
    return imagecodecs.jpegxl_decode(frame)


def with_end(jpeg: bytes) -> bytes:
    """A JPEG with its end marker, which some writers leave out.

    Raises:
        ValueError: If pixels are missing, too.
    """
    if _is_terminated(jpeg):
        return jpeg
    # libjpeg fills what is missing without a word: of a truncated frame, but not of one that lacks nothing but its end,
    # it takes what is put behind it for pixels.
    if not np.array_equal(imagecodecs.jpeg8_decode(jpeg + _END), imagecodecs.jpeg8_decode(jpeg + _FILLER + _END)):
        raise ValueError("the JPEG frame is truncated")
    return jpeg + _END


def _is_terminated(frame: bytes) -> bool:
    """Whether an end marker is there; one byte of padding may follow it (PS3.5 A.4)."""
    return frame.rstrip(b"\x00").endswith(_END)


def _complete_jpeg_2000(codestream: bytes) -> bytes:
    """The codestream with its end marker, which some writers leave out.

    Raises:
        ValueError: If a tile-part (ITU-T T.800, A.4.2) is cut off; OpenJPH would fill it without a word.
    """
    at = codestream.find(b"\xff\x90")
    while codestream[at : at + 2] == b"\xff\x90" and at >= 0:
        length = int.from_bytes(codestream[at + 6 : at + 10], "big")
        if length == 0:  # up to the end marker
            at = len(codestream) if _is_terminated(codestream) else len(codestream) + 1
        else:
            at += length
    if not 0 <= at <= len(codestream):
        raise ValueError("the JPEG 2000 frame is truncated")
    return codestream if _is_terminated(codestream) else codestream[:at] + _END


_JPEG = FrameDecoder(_decode_jpeg, is_ycbcr_undone=True)
_JPEG_2000 = FrameDecoder(_decode_jpeg_2000, tells_sign=True)
_HTJ2K = FrameDecoder(_decode_htj2k, tells_sign=True)
_JPEG_LS = FrameDecoder(_decode_jpeg_ls)
_JPEG_XL = FrameDecoder(_decode_jpeg_xl, is_ycbcr_undone=True)

FRAME_DECODERS: dict[UID, FrameDecoder] = {
    JPEGBaseline8Bit: _JPEG,
    JPEGExtended12Bit: _JPEG,
    JPEGLossless: _JPEG,
    JPEGLosslessSV1: _JPEG,
    JPEGLSLossless: _JPEG_LS,
    JPEGLSNearLossless: _JPEG_LS,
    JPEG2000Lossless: _JPEG_2000,
    JPEG2000: _JPEG_2000,
    JPEG2000MCLossless: _JPEG_2000,
    JPEG2000MC: _JPEG_2000,
    HTJ2KLossless: _HTJ2K,
    HTJ2KLosslessRPCL: _HTJ2K,
    HTJ2K: _HTJ2K,
    JPEGXLLossless: _JPEG_XL,
    JPEGXLJPEGRecompression: _JPEG_XL,
    JPEGXL: _JPEG_XL,
}


def decode_frame(syntax: str, frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """Decode one frame.

    Args:
        syntax: Its Transfer Syntax UID, one of :data:`FRAME_DECODERS`.
        frame: Its bytes. An end marker may be missing.
        header: What :func:`~lib.imaging.decoding.codestream.read_codestream` says of it.
        is_rgb: Whether the Photometric Interpretation is RGB.

    Returns:
        ``(rows, columns)`` or ``(rows, columns, samples)``, uint8, uint16 or int16.

    Raises:
        Exception: If it is truncated or damaged; of any kind.
    """
    return FRAME_DECODERS[UID(syntax)].decode(frame, header, is_rgb)

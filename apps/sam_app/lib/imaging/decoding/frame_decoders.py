"""Decoding of compressed frames of DICOM Pixel Data to arrays, with the decoders of imagecodecs.

These are libjpeg-turbo, CharLS, OpenJPEG, OpenJPH and libjxl. Each transfer syntax has exactly one of them, so that
other installed packages never change the result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.uid import UID

from lib.imaging.decoding.codestream import Codestream, check_scans

_END = b"\xff\xd9"
_FILLER = b"\x55\xa3" * 32

JPEGXLLossless = UID("1.2.840.10008.1.2.4.110")
JPEGXLJPEGRecompression = UID("1.2.840.10008.1.2.4.111")
JPEGXL = UID("1.2.840.10008.1.2.4.112")


class FrameDecoder(NamedTuple):
    """How frames of some transfer syntaxes are decoded.

    Args:
        decode: Function from the frame, its header, and whether the DICOM header states RGB, to ``(rows, columns)`` or
            ``(rows, columns, samples)``, uint8, uint16 or int16.
        converts_to_rgb: Whether the decoder converts YCbCr to RGB.
        states_sign: Whether the frame itself states if it is signed.
    """

    decode: Callable[[bytes, Codestream, bool], np.ndarray]
    converts_to_rgb: bool = False
    states_sign: bool = False


def _decode_jpeg(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """Decode any JPEG process of ITU-T T.81: 8 and 12 bits, lossless from 2 to 16.

    Decoders take a JPEG with three components as YCbCr unless an Adobe marker (ITU-T T.872) says otherwise. DICOM
    states it in the Photometric Interpretation (PS3.5 8.2.1). A frame with subsampled components is YCbCr whatever the
    DICOM header says; a lossless frame is not converted.
    """
    check_scans(frame)
    colours: dict[str, Any] = {}
    if header.components == 3 and not header.is_lossless:
        stored = "RGB" if is_rgb and not header.is_subsampled else "YCBCR"
        colours = {"colorspace": None if header.has_adobe_marker else stored, "outcolorspace": "RGB"}
    return imagecodecs.jpeg8_decode(with_end_marker(frame), **colours)


def _decode_jpeg_2000(
    frame: bytes, header: Codestream, is_rgb: bool, *, decode: Callable[[bytes], np.ndarray] = imagecodecs.jpeg2k_decode
) -> np.ndarray:
    """Decode JPEG 2000, taken out of a JP2 file's boxes, and undo its multiple component transform."""
    return decode(_complete_jpeg_2000(frame[header.start :]))


def _decode_jpeg_ls(frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """Decode JPEG-LS (ITU-T T.87) with any interleaving of components."""
    return imagecodecs.jpegls_decode(frame if _is_terminated(frame) else frame + _END)


def with_end_marker(jpeg: bytes) -> bytes:
    """Return a JPEG with its end marker, which some writers omit.

    Raises:
        ValueError: If pixel data are missing, too.
    """
    if _is_terminated(jpeg):
        return jpeg
    # libjpeg silently fills missing pixels. If bytes are appended, it decodes them as pixels of a truncated frame, but
    # ignores them if only the end marker was missing: then both results are equal.
    if not np.array_equal(imagecodecs.jpeg8_decode(jpeg + _END), imagecodecs.jpeg8_decode(jpeg + _FILLER + _END)):
        raise ValueError("the JPEG frame is truncated")
    return jpeg + _END


def _is_terminated(frame: bytes) -> bool:
    """Return whether the end marker is present; one byte of padding may follow it (PS3.5 A.4)."""
    return frame.rstrip(b"\x00").endswith(_END)


def _complete_jpeg_2000(codestream: bytes) -> bytes:
    """Return the codestream with its end marker, which some writers omit.

    Raises:
        ValueError: If a tile-part (ITU-T T.800, A.4.2) is truncated, which OpenJPH would not report.
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


_JPEG = FrameDecoder(_decode_jpeg, converts_to_rgb=True)
_JPEG_2000 = FrameDecoder(_decode_jpeg_2000, states_sign=True)
_HTJ2K = FrameDecoder(partial(_decode_jpeg_2000, decode=imagecodecs.htj2k_decode), states_sign=True)
_JPEG_LS = FrameDecoder(_decode_jpeg_ls)
_JPEG_XL = FrameDecoder(lambda frame, header, is_rgb: imagecodecs.jpegxl_decode(frame), converts_to_rgb=True)

FRAME_DECODERS: dict[UID, FrameDecoder] = {
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), _JPEG),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), _JPEG_LS),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEG2000MCLossless, uid.JPEG2000MC), _JPEG_2000),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), _HTJ2K),
    **dict.fromkeys((JPEGXLLossless, JPEGXLJPEGRecompression, JPEGXL), _JPEG_XL),
}


def decode_frame(syntax: str, frame: bytes, header: Codestream, is_rgb: bool) -> np.ndarray:
    """Decode one compressed frame.

    Args:
        syntax: Its Transfer Syntax UID, one of :data:`FRAME_DECODERS`.
        frame: Its bytes. An end marker may be missing.
        header: From :func:`~lib.imaging.decoding.codestream.read_codestream`.
        is_rgb: Whether the Photometric Interpretation is RGB.

    Returns:
        ``(rows, columns)`` or ``(rows, columns, samples)``, uint8, uint16 or int16.

    Raises:
        Exception: Any exception if it is truncated or damaged.
    """
    return FRAME_DECODERS[UID(syntax)].decode(frame, header, is_rgb)

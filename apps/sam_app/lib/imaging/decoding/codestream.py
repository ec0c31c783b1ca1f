"""Headers of compressed frames, read before a decoder allocates memory for the frame."""

import re
from typing import NamedTuple

from lib.imaging.image import ImageTooLargeError

_LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))  # T.81 table B.1
_JPEG_LS = 0xF7  # T.87
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS}
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_ADOBE, _START_OF_SCAN = 0xEE, 0xDA
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
"""A marker that is followed by a length; the entropy-coded data between segments contain none."""
MAX_SCANS = 100
_JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, SIZ
_JPEG_XL = b"\xff\x0a"
_JPEG_XL_FILE = b"\x00\x00\x00\x0cJXL "


class Codestream(NamedTuple):
    """Header values of a compressed frame.

    Args:
        rows: Height in pixels.
        columns: Width in pixels.
        components: Samples per pixel; None for JPEG XL, whose header is read only up to the size.
        precision: Bits per sample; None for JPEG XL.
        start: Offset of the codestream in the frame; not 0 if it is inside a file's boxes.
        is_lossless: A JPEG of a lossless process, which has no colour transform.
        is_subsampled: A JPEG whose components differ in resolution, which occurs only with YCbCr.
        has_adobe_marker: A JPEG that states itself (ITU-T T.872, 6.5.3) whether it is RGB or YCbCr.
    """

    rows: int
    columns: int
    components: int | None = None
    precision: int | None = None
    start: int = 0
    is_lossless: bool = False
    is_subsampled: bool = False
    has_adobe_marker: bool = False


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the header of a compressed frame: its size and further properties.

    Args:
        frame: The frame's bytes: JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 (T.800, T.814) or JPEG XL (ISO/IEC
            18181), bare or in a file's boxes.

    Returns:
        The header; None if no size is found.
    """
    if frame[:2] == b"\xff\xd8":
        return _read_jpeg(frame)
    if frame[:2] == _JPEG_XL or frame[:8] == _JPEG_XL_FILE:
        return _read_jpeg_xl(frame)
    at = frame.find(_JPEG_2000)  # at the start, or inside a JP2 file's boxes
    if at < 0 or len(frame) < at + 43:
        return None

    def number(offset: int, length: int = 4) -> int:
        return int.from_bytes(frame[at + offset : at + offset + length], "big")

    columns, rows = number(8) - number(16), number(12) - number(20)
    return Codestream(rows, columns, number(40, 2), (frame[at + 42] & 0x7F) + 1, start=at)


def _read_jpeg(frame: bytes) -> Codestream | None:
    """Read the marker segments up to the start of frame."""
    at, has_adobe_marker = 2, False
    while at + 10 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker == _START_OF_SCAN:
            return None
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:  # decoders ignore shorter ones
            has_adobe_marker = True
        if marker in _START_OF_FRAME and len(body) >= 6:
            return Codestream(
                rows=int.from_bytes(body[1:3], "big"),
                columns=int.from_bytes(body[3:5], "big"),
                components=body[5],
                precision=body[0],
                is_lossless=marker in _LOSSLESS,
                is_subsampled=len(set(body[7 : 6 + 3 * body[5] : 3])) > 1,
                has_adobe_marker=has_adobe_marker,
            )
        at += 2 + length
    return None


def check_scans(frame: bytes) -> None:
    """Refuse a JPEG with more scans than a picture needs.

    Each scan takes as much time as decoding all pixels; encoders write about ten. Other kinds of frames are accepted.

    Args:
        frame: All bytes of the frame.

    Raises:
        ImageTooLargeError: If it has too many scans.
    """
    if frame[:2] != b"\xff\xd8":
        return
    scans, at = 0, 2
    while found := _SEGMENT.search(frame, at):
        scans += frame[found.end() - 1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(frame[found.end() : found.end() + 2], "big")
    if scans > MAX_SCANS:
        raise ImageTooLargeError(f"the JPEG image has {scans} scans; at most {MAX_SCANS} are read")


def _read_jpeg_xl(frame: bytes) -> Codestream | None:
    """Read the SizeHeader of ISO/IEC 18181-1, after the signature: bit fields, lowest bit first."""
    at = 0 if frame[:2] == _JPEG_XL else _start_in_boxes(frame)
    if frame[at : at + 2] != _JPEG_XL or len(frame) < at + 12:
        return None
    bits, taken = int.from_bytes(frame[at + 2 : at + 12], "little"), 0

    def take(count: int) -> int:
        nonlocal taken
        taken += count
        return bits >> (taken - count) & ((1 << count) - 1)

    is_multiple_of_8 = take(1) == 1

    def size() -> int:
        return (take(5) + 1) * 8 if is_multiple_of_8 else take((9, 13, 18, 30)[take(2)]) + 1

    rows = size()
    ratio = take(3)
    across, down = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    return Codestream(rows, rows * across // down if ratio else size())


def _start_in_boxes(frame: bytes) -> int:
    """Return where the codestream starts in a JPEG XL file (ISO/IEC 18181-2): in the box jxlc or the first jxlp."""
    at = 0
    while at + 8 <= len(frame):
        length, kind, head = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8], 8
        if length == 1:  # the length follows the kind, in 64 bits
            length, head = int.from_bytes(frame[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            return at + head + (4 if kind == b"jxlp" else 0)
        if length < head:
            break
        at += length
    return len(frame)

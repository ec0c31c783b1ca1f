"""Sizes stated inside compressed frames, read before a decoder allocates memory for them."""

from __future__ import annotations

from typing import NamedTuple

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # T.81 table B.1; F7: JPEG-LS, T.87
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_ADOBE, _START_OF_SCAN = 0xEE, 0xDA


class Codestream(NamedTuple):
    """What the header of a JPEG, JPEG-LS or JPEG 2000 frame says.

    Args:
        rows: Height in pixels.
        columns: Width in pixels.
        components: Samples per pixel.
        precision: Bits per sample.
        is_subsampled: A JPEG whose components have different resolutions, as only those of YCbCr have.
        has_adobe_marker: A JPEG that itself tells (ITU-T T.872, 6.5.3) whether it is RGB or YCbCr.
    """

    rows: int
    columns: int
    components: int
    precision: int
    is_subsampled: bool = False
    has_adobe_marker: bool = False


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the size of a compressed frame.

    Args:
        frame: One frame's bytes: JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 codestream (T.800) or JP2 file.

    Returns:
        None if no size is found.
    """
    if frame[:2] == b"\xff\xd8":
        return _read_jpeg(frame)
    at = frame.find(b"\xff\x4f\xff\x51")  # SOC, SIZ: at the start, or inside a JP2 file's boxes
    if at < 0 or len(frame) < at + 43:
        return None

    def number(offset: int, length: int = 4) -> int:
        return int.from_bytes(frame[at + offset : at + offset + length], "big")

    columns, rows = number(8) - number(16), number(12) - number(20)
    return Codestream(rows, columns, number(40, 2), (frame[at + 42] & 0x7F) + 1)


def _read_jpeg(frame: bytes) -> Codestream | None:
    """Walk the marker segments up to the start of frame."""
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
        if marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:  # decoders ignore a shorter one
            has_adobe_marker = True
        if marker in _START_OF_FRAME and len(body) >= 6:
            rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            is_subsampled = len(set(body[7 : 6 + 3 * body[5] : 3])) > 1
            return Codestream(rows, columns, body[5], body[0], is_subsampled, has_adobe_marker)
        at += 2 + length
    return None

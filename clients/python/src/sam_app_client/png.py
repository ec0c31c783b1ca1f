"""PNG as the server reads and writes it: 8 bits, grey or RGB, not interlaced (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2


def encode(array: npt.NDArray[np.uint8]) -> bytes:
    """Return an image as a PNG file.

    Args:
        array: ``(rows, columns)`` or ``(rows, columns, 3)`` uint8.
    """
    rows, columns = array.shape[:2]
    colour = _GREY if array.ndim == 2 else _RGB
    lines = np.zeros((rows, 1 + array[0].size), np.uint8)  # the first byte of a line is its filter: none
    lines[:, 1:] = array.reshape(rows, -1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 1)
    return _SIGNATURE + b"".join(_chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def decode(content: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels of a PNG file.

    Returns:
        ``(rows, columns)`` or ``(rows, columns, 3)`` uint8.

    Raises:
        ValueError: If it is none, damaged, or of another kind than the server's.
    """
    if not content.startswith(_SIGNATURE):
        raise ValueError("this is no PNG file")
    chunks: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        chunks[name] = chunks.get(name, b"") + content[at + 8 : at + 8 + length]
        at += 12 + length
    try:
        columns, rows, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        channels = {(8, _GREY, 0, 0, 0): 1, (8, _RGB, 0, 0, 0): 3}[tuple(kind)]
        data = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, 1 + columns * channels)
    except (KeyError, struct.error, zlib.error, ValueError):
        raise ValueError("the PNG file is damaged, or not 8-bit grey or RGB") from None
    pixels = _unfiltered(data[:, 0], data[:, 1:].reshape(rows, columns, channels))
    return pixels[..., 0] if channels == 1 else pixels


def _unfiltered(filters: npt.NDArray[np.uint8], stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the filters of the lines.

    What a pixel is a difference to lies to its left, above it, or both. So all pixels of an anti-diagonal are computed
    at once, from those of the two before it.

    Args:
        filters: ``(rows,)``: 0 none, 1 left, 2 above, 3 mean of both, 4 that of Paeth.
        stored: ``(rows, columns, channels)``.

    Returns:
        As ``stored``.
    """
    if not filters.any():
        return stored.copy()
    if (filters == 1).all():
        return np.add.accumulate(stored, axis=1, dtype=np.uint8)
    rows, columns, _ = stored.shape
    padded = np.zeros((rows + 1, columns + 1, stored.shape[2]), np.int16)
    for diagonal in range(rows + columns - 1):
        r = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        c = diagonal - r
        left, above, corner = padded[r + 1, c], padded[r, c + 1], padded[r, c]
        choices = [np.zeros_like(left), left, above, (left + above) // 2, _paeth(left, above, corner)]
        padded[r + 1, c + 1] = (stored[r, c] + np.choose(filters[r, None], choices)) & 255
    return padded[1:, 1:].astype(np.uint8)


def _paeth(
    left: npt.NDArray[np.int16], above: npt.NDArray[np.int16], corner: npt.NDArray[np.int16]
) -> npt.NDArray[np.int16]:
    """Return the one of the three that is nearest to left + above - corner."""
    estimate = left + above - corner
    from_left, from_above, from_corner = abs(estimate - left), abs(estimate - above), abs(estimate - corner)
    of_two = np.where(from_above <= from_corner, above, corner)
    return np.where((from_left <= from_above) & (from_left <= from_corner), left, of_two)

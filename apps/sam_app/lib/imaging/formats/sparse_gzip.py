"""Gzip of data that is mostly zero, without looking at the zeros.

A label volume of one marked slice is fifty megabytes of zeros around a quarter of one that matters. Compressing the
zeros takes most of the time of an answer, and comes to the same bytes each time. Here they are kept compressed, and put
between what is compressed anew: DEFLATE (RFC 1951) allows it where the data before end with a full flush, that is on a
byte's border and with nothing after them that refers back. The file stays one member (RFC 1952), as readers expect that
stop after the first: ITK's and the viewers'.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

_LEVEL = 1
"""For what is not zero. Of a mask of 512 x 512 it makes 1 to 15 kB in 0.3 to 0.7 ms; level 6 about half of that in four
to six times as long."""

_BLOCK = 1 << 20
"""Zeros that are compressed as one: to 1 kB, the least that DEFLATE can (258 bytes in two bits)."""

_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
"""DEFLATE, no name, no time, no system."""


def gzip_member(pieces: Iterable[bytes | memoryview | int]) -> Iterator[bytes]:
    """One gzip member of pieces that follow one another.

    Args:
        pieces: Bytes, C-contiguous memory, or numbers: so many zero bytes.

    Yields:
        The member's bytes.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    crc = length = 0
    yield _HEADER
    for piece in pieces:
        if isinstance(piece, int):
            yield packer.flush(zlib.Z_FULL_FLUSH)
            blocks, rest = divmod(piece, _BLOCK)
            yield _packed_zeros(_BLOCK) * blocks
            yield _packed_zeros(rest)
            crc = crc32_after_zeros(crc, piece)
            length += piece
        else:
            yield packer.compress(piece)
            crc = zlib.crc32(piece, crc)
            length += memoryview(piece).nbytes
    yield packer.flush()
    yield crc.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")


@lru_cache(maxsize=256)
def _packed_zeros(count: int) -> bytes:
    """Zero bytes in DEFLATE, to a full flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_FULL_FLUSH)


# A CRC-32 is a polynomial over GF(2) modulo P of degree 32; in its 32 bits the highest is the coefficient of x**0, the
# lowest that of x**31. (Gzip's is inverted at the start and at the end.) A zero byte more multiplies it by x**8, n of
# them by x**(8 n) mod P, which squaring finds in log2(n) steps. So does zlib's crc32_combine since 1.2.12 (crc32.c).
_P = 0xEDB88320
_ONE = 1 << 31


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo P."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_P if b & 1 else 0)
    return product


def crc32_after_zeros(crc: int, count: int) -> int:
    """What ``zlib.crc32`` is after so many zero bytes more.

    Args:
        crc: Of what is before them; 0 for nothing.
        count: How many, at least 0.
    """
    return _times(_shift(count), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


@lru_cache(maxsize=4096)
def _shift(count: int) -> int:
    """x**(8 count) mod P."""
    shift, square = _ONE, _ONE >> 8
    while count:
        if count & 1:
            shift = _times(shift, square)
        square = _times(square, square)
        count >>= 1
    return shift

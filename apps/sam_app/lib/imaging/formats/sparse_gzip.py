"""Fast gzip compression of data that is mostly zero.

A label volume with one marked slice has 50 MB of zeros around a quarter of a megabyte of labels. Compressing them takes
most of a response's time, with the same result each time. Here compressed zeros are cached and inserted between newly
compressed pieces. DEFLATE (RFC 1951) allows this after a full flush, i.e. on a byte boundary and with no later
references back. The file is a single member (RFC 1952), as some readers (ITK, the viewers) stop after the first.
"""

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

_LEVEL = 1
"""For data that are not zero. A mask of 512 x 512 becomes 1 to 15 kB in 0.3 to 0.7 ms; level 6 about half of that in
four to six times the time."""

_BLOCK = 1 << 20
"""Zeros per cached block, compressed to 1 kB, the least that DEFLATE can do (258 bytes in two bits)."""

_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
"""Gzip header: DEFLATE, no name, no time, unknown system."""


def gzip_member(pieces: Iterable[bytes | memoryview | int]) -> Iterator[bytes]:
    """Compress consecutive pieces to one gzip member.

    Args:
        pieces: Bytes, C-contiguous memory, or an integer that stands for this many zero bytes.

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
    """Return zero bytes compressed with DEFLATE, up to a full flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_FULL_FLUSH)


# A CRC-32 is a polynomial over GF(2) modulo P of degree 32; in its 32 bits the highest is the coefficient of x**0, the
# lowest that of x**31. (Gzip's is inverted at the start and at the end.) Each further zero byte multiplies it by x**8,
# n zero bytes by x**(8 n) mod P, which repeated squaring computes in log2(n) steps. zlib's crc32_combine does the same
# since 1.2.12 (crc32.c).
_P = 0xEDB88320
_ONE = 1 << 31


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials modulo P."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_P if b & 1 else 0)
    return product


def crc32_after_zeros(crc: int, count: int) -> int:
    """Return the value of ``zlib.crc32`` after ``count`` more zero bytes.

    Args:
        crc: CRC-32 of the bytes before them; 0 if there are none.
        count: Number of zero bytes, at least 0.
    """
    return _times(_shift(count), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


@lru_cache(maxsize=4096)
def _shift(count: int) -> int:
    """Return x**(8 count) mod P."""
    shift, square = _ONE, _ONE >> 8
    while count:
        if count & 1:
            shift = _times(shift, square)
        square = _times(square, square)
        count >>= 1
    return shift

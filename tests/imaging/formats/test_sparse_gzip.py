from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.imaging.formats.sparse_gzip import crc32_after_zeros, gzip_member

MIB = 1 << 20


def dense(pieces: list[bytes | int]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)  # bytes(n) is n zeros


@given(st.binary(max_size=64), st.integers(0, 3 * MIB))
@settings(deadline=None)
def test_the_sum_after_zeros_is_that_of_the_bytes(before: bytes, count: int):
    crc = zlib.crc32(before)
    assert crc32_after_zeros(crc, count) == zlib.crc32(bytes(count), crc)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(deadline=None)
def test_zeros_may_be_appended_in_parts(crc: int, first: int, second: int):
    assert crc32_after_zeros(crc32_after_zeros(crc, first), second) == crc32_after_zeros(crc, first + second)


PIECES = st.lists(st.binary(max_size=300) | st.integers(0, 70_000) | st.sampled_from([MIB, MIB + 1]), max_size=8)


@given(PIECES)
@settings(deadline=None)
def test_one_member_holds_the_pieces(pieces: list[bytes | int]):
    written = b"".join(gzip_member(pieces))
    assert gzip.decompress(written) == dense(pieces)
    only_member = zlib.decompressobj(wbits=31)
    assert only_member.decompress(written) == dense(pieces)
    assert only_member.eof and only_member.unused_data == b""


def test_nothing_after_zeros_refers_to_what_is_before_them():
    again = bytes(range(256)) * 100  # without a full flush, the compressor would refer back across the zeros
    assert gzip.decompress(b"".join(gzip_member([again, 5, again]))) == again + bytes(5) + again


def test_an_array_gives_its_bytes():
    array = np.arange(24, dtype="<i4").reshape(2, 3, 4)
    member = b"".join(gzip_member([7, array.data, array[1].data]))
    assert gzip.decompress(member) == bytes(7) + array.tobytes() + array[1].tobytes()


def test_zeros_are_as_small_as_deflate_can_and_are_compressed_once(monkeypatch: pytest.MonkeyPatch):
    member = list(gzip_member([MIB * 50, b"mask", MIB * 150]))
    assert sum(map(len, member)) < 200 * 1100
    monkeypatch.setattr(zlib, "crc32", lambda piece, crc: len(piece) < 5)  # no CRC of the zeros is computed, either
    compress = zlib.compressobj

    def counted(level: int, *args: int):
        assert level == 1, "zeros were compressed again"
        return compress(level, *args)

    monkeypatch.setattr(zlib, "compressobj", counted)
    assert len(list(gzip_member([MIB * 50, b"mask", MIB * 150]))) == len(member)

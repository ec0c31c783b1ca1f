"""Arrays of ITK-SNAP: what is inflated, how far, and what is refused."""

from __future__ import annotations

import gzip
import io
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.server.http.errors import ContainerError
from lib.server.itksnap.arrays import deflated, inflated

FLOAT32, BOOL = np.dtype(np.float32), np.dtype(bool)
SHAPE = (3, 4, 5)
VALUES = np.arange(60, dtype="<f4").reshape(SHAPE) - 7.5


def sent(values: np.ndarray) -> bytes:
    return gzip.compress(values.astype("<f4").tobytes(), 1)


class Counting(io.BytesIO):
    """A file that knows how many of its bytes were read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content


def test_values_are_those_that_were_sent_from_wherever_the_file_was_read_to():
    file = io.BytesIO(sent(VALUES))
    file.read(20)
    found = inflated(file, SHAPE, FLOAT32)
    assert found.dtype == np.float32 and np.array_equal(found, VALUES) and found.flags.writeable


def test_more_values_than_are_inflated_at_once():
    values = np.random.default_rng(0).normal(size=(3, 700, 701)).astype("<f4")
    assert np.array_equal(inflated(io.BytesIO(sent(values)), values.shape, FLOAT32), values)


def test_a_mask_is_what_is_not_zero():
    values = np.zeros(SHAPE)
    values[0, 0, :4] = 0.25, -3, np.nan, 1
    found = inflated(io.BytesIO(sent(values)), SHAPE, BOOL)
    assert found.dtype == bool and np.argwhere(found).tolist() == [[0, 0, x] for x in range(4)]


def test_a_bomb_is_inflated_no_further_than_it_announces():
    bomb = Counting(gzip.compress(bytes(128 << 20), 1))
    with pytest.raises(ContainerError, match="more than the 60 values of float32"):
        inflated(bomb, SHAPE, FLOAT32)
    assert bomb.taken < len(bomb.getvalue()) / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends before"),
        (sent(VALUES)[:-9], "damaged"),
        (sent(VALUES)[:-8] + bytes(8), "damaged"),
        (zlib.compress(VALUES.tobytes()), "no gzip file"),
        (VALUES.tobytes(), "no gzip file"),
        (sent(VALUES.ravel()[:59]), "ends before the 60 values"),
        (gzip.compress(VALUES.tobytes()[:-1]), "ends before the 60 values"),
        (gzip.compress(VALUES.tobytes() + b"x"), "more than the 60 values"),
    ],
)
def test_what_is_damaged_or_of_another_size_is_refused(content, message):
    for dtype in (FLOAT32, BOOL):
        with pytest.raises(ContainerError, match=message):
            inflated(io.BytesIO(content), SHAPE, dtype)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=300)
def test_damaged_files_are_refused_or_mean_what_gzip_says(changes):
    content = bytearray(sent(VALUES))
    for at, value in changes:
        content[at % len(content)] = value
    try:
        found = inflated(io.BytesIO(content), SHAPE, FLOAT32)
    except ContainerError:
        return
    assert found.tobytes() == gzip.decompress(bytes(content))


def test_inflating_ends_with_the_time_of_its_request():
    clock = Clock(0.0)
    with use_clock(clock), pytest.raises(TimeLimitError):
        inflated(io.BytesIO(sent(VALUES)), SHAPE, FLOAT32)


@pytest.mark.parametrize("where", [[], [(0, 0, 0)], [(2, 3, 4), (1, 0, 0)]])
def test_a_mask_is_sent_as_one_byte_a_voxel(where):
    mask = np.zeros(SHAPE, bool)
    for place in where:
        mask[place] = True
    content = zlib.decompressobj(wbits=31)
    values = np.frombuffer(content.decompress(deflated(mask)), np.int8).reshape(SHAPE)
    assert content.eof and not content.unused_data, "one member, as some readers stop after the first"
    assert np.array_equal(values, mask)

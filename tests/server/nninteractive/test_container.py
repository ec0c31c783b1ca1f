from __future__ import annotations

import struct
from collections.abc import Callable

import blosc2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays
from nnInteractive.inference.remote.serialization import pack_array, unpack_array

from lib.imaging.image import ImageTooLargeError
from lib.server.http.errors import ContainerError
from lib.server.nninteractive import container
from lib.server.nninteractive.container import DTYPES, pack, read, unpack
from support.fuzzing import AMOUNTS, fuzz

MAX = 1 << 16
ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(name, arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9))
)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Also of NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_array_goes_to_the_published_client_and_comes_back(amount: Callable[[int], int]):
    @fuzz(amount(150), ARRAYS)
    def check(array: np.ndarray) -> None:
        assert same(unpack_array(pack(array)), array)
        assert same(unpack(pack_array(array), max_values=MAX), array)

    check()


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_large_and_regular_arrays_do_too(name):
    ramp = (np.arange(40 * 64 * 65) % 1000).reshape(40, 64, 65).astype(name)
    for array in (ramp, np.zeros_like(ramp), np.ones_like(ramp), ramp[:, ::2].transpose(2, 0, 1)):
        for level, codec in ((3, blosc2.Codec.ZSTD), (9, blosc2.Codec.LZ4)):
            assert same(unpack(pack_array(array, codec=codec, clevel=level), max_values=array.size), array)
        assert same(unpack_array(pack(array)), array)


def test_an_empty_array_has_no_chunks():
    array = np.zeros((3, 0, 2), np.uint16)
    assert same(unpack(pack(array), max_values=0), array) and same(unpack_array(pack(array)), array)


def test_a_long_array_is_sent_in_parts(monkeypatch):
    monkeypatch.setattr(container, "_CHUNK_BYTES", 48)
    array = np.arange(100, dtype=np.float64)
    assert len(read(pack(array), max_values=100).chunks) == 17
    assert same(unpack(pack(array), max_values=100), array) and same(unpack_array(pack(array)), array)


def test_what_arrives_can_be_written_to_and_a_bool_is_one():
    values = np.array([0, 1, 2, 255], np.uint8)
    body = pack(values).replace(b"\x05uint8", b"\x04bool")
    flags = unpack(body, max_values=4)
    flags[0] = True
    assert flags.view(np.uint8).tolist() == [1, 1, 1, 1]


def head(name: bytes = b"uint8", shape: tuple[int, ...] = (8,), *, magic: bytes = b"NNIA", version: int = 1) -> bytes:
    sizes = struct.pack(f"<{len(shape)}q", *shape)
    return struct.pack("<4sBBBB", magic, version, 1, len(shape), len(name)) + name + sizes


def body_of(chunk: bytes, length: int = 4096, name: bytes = b"uint8") -> bytes:
    return head(name, (length,)) + struct.pack("<IQQ", 1, length, len(chunk)) + chunk


def chunk_of(values: bytes, **others: object) -> bytearray:
    settings = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.NOFILTER], **others}
    return bytearray(blosc2.compress2(values, typesize=1, **settings))


GOOD = bytes(range(256)) * 16
NONE = struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cut short"),
        (head()[:9], "cut short"),
        (head(magic=b"NNIB"), "no array"),
        (head(version=2), "no array"),
        (head(shape=()), "0 dimensions"),
        (head(shape=(1, 1, 1, 1, 1)), "5 dimensions"),
        (head(b"object") + NONE, "'object'"),
        (head(b"complex64") + NONE, "complex64"),
        (head(b"\xff\xfe") + NONE, "is of the type"),
        (head(shape=(-1, -8)) + NONE, "negative"),
        (head() + NONE, "8 bytes, its chunks 0"),
        (head() + struct.pack("<I", 1 << 31), "cut short"),
        (head() + struct.pack("<IQQ", 1, 8, 1 << 63), "cut short"),
        (head() + struct.pack("<IQQ", 1, 8, 3) + b"abc", "not the form"),
        (body_of(chunk_of(GOOD))[:-1], "cut short"),
        (body_of(chunk_of(GOOD)) + b"more", "4 follow"),
        (body_of(chunk_of(GOOD[:-1])), "4095 bytes in place of 4096"),
        (body_of(chunk_of(GOOD[:-1]), name=b"uint16"), "4095 bytes in place of 4096"),
        (head(b"uint16", (3,)) + struct.pack("<IQQ", 1, 5, 99) + bytes(99), "not the form"),
    ],
)
def test_a_damaged_container_is_refused_and_the_message_says_why(body, words):
    with pytest.raises(ContainerError, match=words):
        unpack(body, max_values=MAX)


def test_what_is_too_large_is_refused_before_anything_is_allocated():
    for shape in ((1 << 40,), (1 << 62, 1 << 62), (MAX + 1,)):
        with pytest.raises(ImageTooLargeError, match=f"at most {MAX}"):
            read(head(shape=shape) + NONE, max_values=MAX)
    with pytest.raises(ContainerError, match="its chunks 4096"):  # 1 TiB of bytes, announced by a chunk of 4 KiB
        unpack(head(shape=(1 << 40,)) + body_of(chunk_of(GOOD))[len(head()) :], max_values=1 << 41)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (2, 0x05 | 6 << 5),  # a codec that Blosc2 would load by starting a program
        (2, 0x00 | 4 << 5),  # the header of the first Blosc, of 16 bytes
        (16, 0x04),  # another filter
        (21, 0x20),  # one that would be loaded likewise
        (30, 0x01),  # the second byte of flags
        (31, 0x40),  # values left as the memory was
        (31, 0x08),  # a place in a file
        (31, 0x01),  # a dictionary
    ],
)
def test_no_chunk_reaches_the_decompressor_that_clients_do_not_write(at, value, monkeypatch):
    chunk = chunk_of(GOOD)
    assert unpack(body_of(chunk), max_values=MAX).tobytes() == GOOD
    chunk[at] = value
    monkeypatch.setattr(blosc2, "decompress2", lambda *_, **__: pytest.fail("it was decompressed"))
    with pytest.raises(ContainerError, match="not the form that nnInteractive's clients send"):
        unpack(body_of(chunk), max_values=MAX)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_mutated_container_gives_an_array_or_says_what_is_wrong(amount: Callable[[int], int]):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 1 << 12, (1, 12, 20, 20)).astype(np.int16)
    stroke = np.zeros((1, 40, 40), np.uint8)
    stroke[0, 7:9, 3:30] = 1
    whole = [pack(noise), pack(stroke), pack_array(noise), pack_array(stroke), pack(np.zeros((2, 9), np.float32))]
    change = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(("set", "cut", "add")))

    @fuzz(amount(600), st.sampled_from(whole), st.lists(change, min_size=1, max_size=4))
    def check(body: bytes, changes: list[tuple[float, int, str]]) -> None:
        changed = bytearray(body)
        for place, value, kind in changes:
            at = int(place * len(changed)) if value % 2 else int(place * min(len(changed), 100))  # the heads more often
            if kind == "set" and changed:
                changed[at] = value
            elif kind == "cut":
                del changed[at : at + value]
            else:
                changed[at:at] = bytes(value)
        try:
            array = unpack(changed, max_values=MAX)
        except ContainerError as error:
            assert str(error)
        except ImageTooLargeError:
            pass
        else:
            assert array.size <= MAX and array.dtype in DTYPES.values()

    check()

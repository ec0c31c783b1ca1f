"""Arrays as nnInteractive's clients send and read them: a short header, then the bytes in chunks of Blosc2.

What comes from a client is checked as a whole before anything of the announced size is allocated: the type by a list of
names, the sizes against each other and against a limit, and of each chunk's own header that it has only what clients
write. The decompressor sees no other chunk: Blosc2 also knows codecs that it loads by starting a program, chunks that
name places in files, and values that are left as the memory was.

Blosc2 is imported with the first array, as that takes a second and starts threads.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from lib.imaging.image import ImageTooLargeError
from lib.server.http.errors import ContainerError

Body: TypeAlias = bytes | bytearray | memoryview

_NAMES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
DTYPES = {name: np.dtype(name) for name in _NAMES}
"""Types of the arrays by their names. No others: numpy's ``object`` would make pointers of the bytes."""

_MAGIC, _VERSION = b"NNIA", 1
_ZSTD, _LZ4 = 1, 2
_HEAD, _CHUNKS, _LENGTHS = struct.Struct("<4sBBBB"), struct.Struct("<I"), struct.Struct("<QQ")
_MAX_DIMENSIONS = 4
_CHUNK_BYTES = 1 << 30
"""Of each chunk that is written but the last; Blosc2 takes less than 2 GiB."""
_LEVEL = 1

_CHUNK_HEADER_BYTES = 32
_EXTENDED = 0b101
"""In a chunk's flags: its header is Blosc2's own."""
_STORED = 0b10
"""Likewise: its values are stored as they are."""
_CODECS = (1, 4)
"""LZ4 and Zstandard, in the upper three bits of the flags; of a small chunk that is stored they can be 0."""
_FILTERS = (0, 1)
"""None and byte shuffle."""
_SPECIALS = (0x00, 0x10, 0x20, 0x30)
"""In the last byte: ordinary, or all zero, NaN or one value."""


@dataclass(frozen=True, eq=False)
class Packed:
    """An array that has arrived, checked but not unpacked.

    Args:
        dtype: Its type.
        shape: Its shape, of 1 to 4 dimensions.
        chunks: Its bytes in C order, compressed in parts.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: Sequence[tuple[int, memoryview]]
    """By chunk: number of bytes, and these compressed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the unpacked array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def unpacked(self) -> np.ndarray:
        """Return the array, which can be written to.

        Raises:
            ContainerError: If a chunk is damaged.
        """
        values = np.empty(self.nbytes, np.uint8)  # bytes: not every byte is a bool
        ends = np.cumsum([0, *(length for length, _ in self.chunks)])
        for (start, end), (_, chunk) in zip(pairwise(ends), self.chunks, strict=True):
            try:
                _blosc2().decompress2(chunk, dst=values[start:end], nthreads=1)
            except (RuntimeError, ValueError):
                raise ContainerError("the array cannot be unpacked: a chunk is damaged; send it again") from None
        typed = values != 0 if self.dtype == bool else values.view(self.dtype)
        return typed.reshape(self.shape)


def pack(array: np.ndarray) -> bytes:
    """Return an array of 1 to 4 dimensions, of one of :data:`DTYPES`, as a container."""
    array = np.ascontiguousarray(array)
    raw = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy's types lack the buffer
    blosc2 = _blosc2()
    settings = {"codec": blosc2.Codec.ZSTD, "clevel": _LEVEL, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1}
    name = array.dtype.name.encode("ascii")
    starts = range(0, len(raw), _CHUNK_BYTES)
    parts = [
        _HEAD.pack(_MAGIC, _VERSION, _ZSTD, array.ndim, len(name)),
        name,
        struct.pack(f"<{array.ndim}q", *array.shape),
        _CHUNKS.pack(len(starts)),
    ]
    for start in starts:
        part = raw[start : start + _CHUNK_BYTES]
        chunk = blosc2.compress2(part, typesize=array.dtype.itemsize, **settings)
        parts += [_LENGTHS.pack(len(part), len(chunk)), chunk]
    return b"".join(parts)


def unpack(body: Body, *, max_values: int) -> np.ndarray:
    """Return the array of a container, see :func:`read` and :meth:`Packed.unpacked`."""
    return read(body, max_values=max_values).unpacked()


def read(body: Body, *, max_values: int) -> Packed:
    """Check a container without unpacking it.

    Args:
        body: The container, which is referred to and must not change.
        max_values: Most values that its array may have.

    Raises:
        ContainerError: If it is damaged, or has what clients do not send; the message says what.
        ImageTooLargeError: If it announces more values.
    """
    fields = _Fields(body)
    magic, version, codec, dimensions, name_length = fields.take(_HEAD)
    if magic != _MAGIC or version != _VERSION or codec not in (_ZSTD, _LZ4):
        raise ContainerError("the body is no array as nnInteractive's clients send it (NNIA, version 1)")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ContainerError(f"the array has {dimensions} dimensions; it can have 1 to {_MAX_DIMENSIONS}")
    name = bytes(fields.span(name_length)).decode("ascii", "replace")
    if name not in DTYPES:
        raise ContainerError(f"the array is of the type {name[:40]!r}; it can be {', '.join(DTYPES)}")
    shape = fields.take(struct.Struct(f"<{dimensions}q"))
    if min(shape) < 0:
        raise ContainerError(f"the array's shape {list(shape)} has a negative size")
    count = math.prod(shape)
    if count > max_values:
        raise ImageTooLargeError(f"the array has {count} values; at most {max_values} are read")
    dtype = DTYPES[name]
    packed = Packed(dtype, shape, list(_chunks(fields, dtype.itemsize)))
    total = sum(length for length, _ in packed.chunks)
    if total != packed.nbytes or fields.left:
        raise ContainerError(f"the array has {packed.nbytes} bytes, its chunks {total}, and {fields.left} follow them")
    return packed


def _chunks(fields: _Fields, item_size: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the chunks, each with the length that it says it has when it is decompressed."""
    (count,) = fields.take(_CHUNKS)
    for _ in range(count):
        length, compressed = fields.take(_LENGTHS)
        chunk = fields.span(compressed)
        if not _is_as_clients_write(chunk) or not length or length % item_size:
            raise ContainerError("a chunk of the array has not the form that nnInteractive's clients send")
        announced, used, _ = _blosc2().get_cbuffer_sizes(chunk)
        if announced != length or used > len(chunk):
            raise ContainerError(f"a chunk of the array has {announced} bytes in place of {length}")
        yield length, chunk


def _is_as_clients_write(chunk: memoryview) -> bool:
    """Return whether a chunk's header (Blosc2, README_CHUNK_FORMAT) has nothing but what clients write."""
    if len(chunk) < _CHUNK_HEADER_BYTES:
        return False
    flags, filters, more, last = chunk[2], chunk[16:22], chunk[30], chunk[31]
    return (
        flags & _EXTENDED == _EXTENDED
        and (flags >> 5 in _CODECS or flags == _EXTENDED | _STORED)
        and all(code in _FILTERS for code in filters)
        and not more
        and last in _SPECIALS
    )


class _Fields:
    """A body that is read from its beginning to its end."""

    def __init__(self, body: Body) -> None:
        self._rest = memoryview(body)

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._rest)

    def span(self, count: int) -> memoryview:
        """Return the next bytes.

        Raises:
            ContainerError: If there are fewer.
        """
        if count > self.left:
            raise ContainerError("the array is cut short: send the whole body")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        """Return the next numbers; errors are those of :meth:`span`."""
        return form.unpack(self.span(form.size))


@cache
def _blosc2() -> ModuleType:
    import blosc2

    blosc2.set_releasegil(True)  # a large array would hold up everybody
    return blosc2

"""Results of worker processes, transferred through shared memory without a copy of their arrays."""

import io
import os
import pickle
import struct
from typing import Any

from pydicom import FileDataset

from lib.imaging.image import ImageTooLargeError

MAX_KEPT_BYTES = 16 * 2**20
"""Shared memory that a worker keeps between two calls: existing pages are much faster to write."""
_MAX_OBJECTS_BYTES = 64 * 2**20
"""Pickled size of a result without its arrays, i.e. of headers, whose objects need several times as much."""
_NUMBER = struct.Struct("<Q")


def write_result(value: object, results: int) -> None:
    """Write a value into shared memory: lengths, pickle, and the bytes of arrays, not copied before."""
    buffers: list[pickle.PickleBuffer] = []
    objects = io.BytesIO()
    _Pickler(objects, protocol=5, buffer_callback=buffers.append).dump(value)
    if objects.tell() > _MAX_OBJECTS_BYTES:
        raise ImageTooLargeError(f"the image's header exceeds {_MAX_OBJECTS_BYTES // 2**20} MiB")
    body = objects.getvalue()
    parts: list[bytes | memoryview] = [body, *(buffer.raw() for buffer in buffers)]
    numbers = (len(buffers), *map(len, parts))
    if os.fstat(results).st_size > MAX_KEPT_BYTES:
        os.ftruncate(results, MAX_KEPT_BYTES)
    os.lseek(results, 0, os.SEEK_SET)
    with open(results, "wb", closefd=False) as file:
        for part in (struct.pack(f"<{len(numbers)}Q", *numbers), *parts):
            file.write(part)


def read_result(results: int) -> Any:
    """Read a value that :func:`write_result` wrote."""
    os.lseek(results, 0, os.SEEK_SET)
    with open(results, "rb", closefd=False) as file:
        count = _NUMBER.unpack(file.read(_NUMBER.size))[0]
        lengths = struct.unpack(f"<{count + 1}Q", file.read(_NUMBER.size * (count + 1)))
        parts = [bytearray(length) for length in lengths]
        for part in parts:
            file.readinto(part)
    if sum(lengths) > MAX_KEPT_BYTES:
        os.ftruncate(results, MAX_KEPT_BYTES)
    body, *buffers = parts
    return pickle.loads(body, buffers=buffers)  # noqa: S301 - of a worker


class _Pickler(pickle.Pickler):
    """Pickles each header separately, so that other threads can run between two headers on loading."""

    def reducer_override(self, value: Any) -> Any:
        return (_load_header, (pickle.dumps(value, protocol=5),)) if type(value) is FileDataset else NotImplemented


def _load_header(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301 - of a worker

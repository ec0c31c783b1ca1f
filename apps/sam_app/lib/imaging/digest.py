"""SHA-256 of image files, remembered while a file stays as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


def image_sha256(path: Path) -> str:
    """SHA-256 of an image's bytes, in hexadecimal; of a folder with a series: of its files' sums, in their order.

    A file is read again only if its size or its time of change is another than before. The order is that of the sums,
    so that neither the files' names nor where they lie matter.

    Args:
        path: A file, or a folder of files.

    Raises:
        OSError: If it cannot be read.
    """
    if not path.is_dir():
        return _file_sha256(path)
    with os.scandir(path) as entries:
        return series_sha256([_file_sha256(entry) for entry in entries if entry.is_file()])


def series_sha256(sums: Iterable[str]) -> str:
    """SHA-256 of a series whose files have these, in any order."""
    return hashlib.sha256("".join(sorted(sums)).encode("ascii")).hexdigest()


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 of a file that is open, which is at its start afterwards."""
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    stream.seek(0)
    return digest.hexdigest()


def _file_sha256(path: os.PathLike[str]) -> str:
    status = os.stat(path)
    return _remembered_sha256(os.fspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16384)
def _remembered_sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return stream_sha256(file)

"""SHA-256 of image files, remembered while a file stays as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from cachetools import LRUCache, cached

from lib.imaging.image_cache import FileIdentity, file_identity

_CHUNK = 1 << 20


def image_sha256(path: Path) -> str:
    """SHA-256 of an image's bytes, in hexadecimal; of a folder with a series: of its files' sums, in their order.

    A file is read again only if its identity (:func:`~lib.imaging.image_cache.file_identity`) is another than before.
    The order is that of the sums, so that neither the files' names nor where they lie matter.

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
    return _remembered_sha256(file_identity(path), path)


@cached(LRUCache(maxsize=16384), key=lambda identity, path: identity, lock=Lock())
def _remembered_sha256(identity: FileIdentity, path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return stream_sha256(file)

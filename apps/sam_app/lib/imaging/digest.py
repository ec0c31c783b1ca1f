"""SHA-256 of image files, cached as long as a file does not change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from cachetools import LRUCache, cached

from lib.base.files import sha256_of
from lib.imaging.image_cache import FileIdentity, file_identity


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of an image file in hexadecimal; for a series folder, that of its files' SHA-256 sums.

    A file is read again only if its identity (:func:`~lib.imaging.image_cache.file_identity`) has changed. The files'
    sums are sorted, so that neither file names nor the folder's path matter.

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
    """Return the SHA-256 of a series from the SHA-256 sums of its files, in any order."""
    return hashlib.sha256("".join(sorted(sums)).encode("ascii")).hexdigest()


def _file_sha256(path: os.PathLike[str]) -> str:
    return _cached_sha256(file_identity(path), path)


@cached(LRUCache(maxsize=16384), key=lambda identity, path: identity, lock=Lock())
def _cached_sha256(identity: FileIdentity, path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return sha256_of(file)

"""In-memory cache of images, so that the next click on a volume does not read it again; SHA-256 of their files."""

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from cachetools import LRUCache, cached

from lib.base.cache import ByteBoundedCache
from lib.base.files import sha256_of
from lib.imaging.image import ImageChangedError, MedicalImage

FileIdentity = tuple[int, int, int, int, int]
"""Device, inode, size, modification time and status change time (which programs cannot set back)."""

Identity = tuple[FileIdentity, ...]
"""Identity of the file, or of each file of a series."""

DEFAULT_MAX_BYTES = 1 << 30

T = TypeVar("T")


def cached_per_image(function: Callable[[MedicalImage], T]) -> Callable[[MedicalImage], T]:
    """Cache a function's result per image, for as long as the image is in memory.

    Args:
        function: Must depend on the image only, must not hold a reference to it, and must return something small.
    """
    known: WeakKeyDictionary[MedicalImage, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(image: MedicalImage) -> T:
        if image not in known:
            known[image] = function(image)
        return known[image]

    return remembered


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """Return what identifies a file's content without reading it, independent of its path.

    Raises:
        OSError: If the file does not exist.
    """
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def identity_of(path: Path) -> Identity:
    """Return what identifies an image's content without reading it.

    A second name (hard link) of the same file has the same identity.

    Args:
        path: A file, or a folder with the files of a series.

    Raises:
        OSError: If it does not exist.
    """
    files = [os.fspath(path)]
    if path.is_dir():
        with os.scandir(path) as entries:  # several times as fast as Path objects for a series of hundreds of files
            files = sorted(entry.path for entry in entries)
    return tuple(map(file_identity, files))


def image_sha256(path: Path) -> str:
    """Return the SHA-256 of an image file in hexadecimal; for a series folder, that of its files' SHA-256 sums.

    A file is read again only if its identity (:func:`file_identity`) has changed. The files'
    sums are sorted, so that neither file names nor the folder's path matter.

    Args:
        path: A file, or a folder of files.

    Raises:
        OSError: If it cannot be read.
    """
    return series_sha256(_sums(path)) if path.is_dir() else _file_sha256(path)


def content_key(path: Path) -> str:
    """Return what names an image as it is read: a file's SHA-256; of a series, that of its files' in order of names.

    Where the slices of a series state neither position nor number, their names are their order. Otherwise as
    :func:`image_sha256`.
    """
    return _key_of(_sums(path)) if path.is_dir() else _file_sha256(path)


def known_key(path: Path) -> str | None:
    """Return the :func:`content_key` if it is known without reading a file; None if it is not.

    Raises:
        OSError: If the image does not exist.
    """
    identities = identity_of(path)
    with _sums_lock:
        sums = [_known_sums.get(identity) for identity in identities]
    if not all(sums):
        return None
    return _key_of(filter(None, sums)) if path.is_dir() else sums[0]


def version_of(key: str) -> str:
    """Return the name that clients get for an image's content, from its :func:`content_key`."""
    return key[:16]


def _sums(folder: Path) -> list[str]:
    """Return the SHA-256 sums of a series' files, in order of names."""
    with os.scandir(folder) as entries:
        files = sorted((entry for entry in entries if entry.is_file()), key=lambda entry: entry.name)
    return [_file_sha256(file) for file in files]


def _key_of(sums: Iterable[str]) -> str:
    return hashlib.sha256("".join(sums).encode("ascii")).hexdigest()


def series_sha256(sums: Iterable[str]) -> str:
    """Return the SHA-256 of a series from the SHA-256 sums of its files, in any order."""
    return _key_of(sorted(sums))


def _file_sha256(path: os.PathLike[str]) -> str:
    return _cached_sha256(file_identity(path), path)


_known_sums: LRUCache[FileIdentity, str] = LRUCache(maxsize=16384)
_sums_lock = Lock()


@cached(_known_sums, key=lambda identity, path: identity, lock=_sums_lock)
def _cached_sha256(identity: FileIdentity, path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return sha256_of(file)


class _Kept(NamedTuple):
    """An image, and where it was read from; None for a file that is moved or removed while its content stays in use."""

    image: MedicalImage
    path: Path | None


class ImageCache:
    """Cache of recently used images, bounded by bytes. Thread-safe; each image is read by one request at a time.

    An image is known by its content: of a study, its copy with a result and a session's file there is one in memory.

    Args:
        max_bytes: Bound on the pixel data of all cached images; 0 caches none, and a larger image is not cached.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._cache: ByteBoundedCache[str, _Kept] = ByteBoundedCache(max_bytes, lambda kept: kept.image.frames.nbytes)

    def get_or_read(self, path: Path, read: Callable[[Path], MedicalImage], key: str | None = None) -> MedicalImage:
        """Return the image with read-only pixels, from the cache, or read if its content is new.

        Args:
            path: A file, or a folder with the files of a series.
            read: Reads the image from ``path``.
            key: As of :func:`content_key`, if it is known and nobody writes to the file.

        Raises:
            OSError: If the file does not exist.
            ImageChangedError: If the file was written to while it was being read.
            TimeLimitError: If the current clock's time runs out while another request reads it.
            Exception: Whatever ``read`` raises, in every request that waited for it; nothing is cached then.
        """
        identity = identity_of(path)

        def read_only() -> _Kept:
            image = read(path)
            if key is None and identity_of(path) != identity:
                raise ImageChangedError("the image's file was changed while it was read; try again once it is complete")
            image.frames.flags.writeable = False
            return _Kept(image, None if key else path)

        return self._cache.get_or_compute(key or content_key(path), read_only).image

    def find(self, key: str) -> MedicalImage | None:
        """Return the image with this :func:`content_key` if it is in the cache."""
        kept = self._cache.find(key)
        return None if kept is None else kept.image

    def forget_gone(self) -> None:
        """No longer keep the images whose files are gone: nobody can ask for them again."""
        self._cache.drop(lambda kept: kept.path is not None and not os.path.exists(kept.path))

    def evict_oldest(self) -> bool:
        """Evict the least recently used image; return False if the cache is empty."""
        return self._cache.evict_oldest()

    def stats(self) -> dict[str, int]:
        """Return ``hits`` and ``misses`` since the start, and the current number of ``entries`` and ``bytes``."""
        return self._cache.stats()

"""Images that were read stay in memory, so that the next click on a volume does not read it again."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from lib.base.byte_cache import ByteBoundedCache
from lib.imaging.image import ImageChangedError, MedicalImage

FileIdentity = tuple[int, int, int, int, int]
"""Device, inode, size, time of the last writing and time of the last change, which no program can set back."""

Identity = tuple[FileIdentity, ...]
"""Of the file, or of each file of a series."""

DEFAULT_MAX_BYTES = 1 << 30

T = TypeVar("T")


def once_per_image(function: Callable[[MedicalImage], T]) -> Callable[[MedicalImage], T]:
    """Have what a function tells of an image be remembered for as long as the image is kept.

    Args:
        function: Its result depends on nothing but the image, does not hold it, and is small.
    """
    known: WeakKeyDictionary[MedicalImage, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(image: MedicalImage) -> T:
        if image not in known:
            known[image] = function(image)
        return known[image]

    return remembered


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """What tells a file's content without reading it, wherever its folder lies.

    Raises:
        OSError: If it is not there.
    """
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def identity_of(path: Path) -> Identity:
    """What tells an image's content without reading it; a second name of the same file has the same identity.

    Args:
        path: A file, or a folder with the files of a series.

    Raises:
        OSError: If it is not there.
    """
    files = [os.fspath(path)]
    if path.is_dir():
        with os.scandir(path) as entries:  # of a series of hundreds, several times as fast as by Path objects
            files = sorted(entry.path for entry in entries)
    return tuple(map(file_identity, files))


class _Kept(NamedTuple):
    """An image, and where it was read from; None where its content has its name, wherever it comes from."""

    image: MedicalImage
    path: Path | None


class ImageCache:
    """The images that were read last, up to a number of bytes. Thread-safe; an image is read by one request at a time.

    Args:
        max_bytes: Bound on the pixels of the kept images; 0 keeps none, and a larger image is not kept.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._cache: ByteBoundedCache[Identity | str, _Kept] = ByteBoundedCache(
            max_bytes, lambda kept: kept.image.frames.nbytes
        )

    def get_or_read(self, path: Path, read: Callable[[Path], MedicalImage], sha256: str | None = None) -> MedicalImage:
        """The image, whose pixels nobody may write into; ``read`` is called only if the file is new or was changed.

        Args:
            path: A file, or a folder with the files of a series.
            read: Reads it.
            sha256: Of the file's content, if that is known: an upload that comes again is another file each time.

        Raises:
            OSError: If the file is not there.
            ImageChangedError: If the file was written to while it was read.
            TimeLimitError: If the current clock's time is up while another request reads it.
            Exception: What ``read`` raises, in every request that waited for it; nothing is kept then.
        """
        identity = identity_of(path)

        def read_only() -> _Kept:
            image = read(path)
            if sha256 is None and identity_of(path) != identity:
                raise ImageChangedError("the image's file was changed while it was read; ask again once it is complete")
            image.frames.flags.writeable = False
            return _Kept(image, None if sha256 else path)

        return self._cache.get_or_compute(sha256 or identity, read_only).image

    def forget_gone(self) -> None:
        """No longer keep the images whose files are gone: nobody can ask for them again."""
        self._cache.drop(lambda kept: kept.path is not None and not os.path.exists(kept.path))

    def give_up_oldest(self) -> bool:
        """No longer keep the image that was not used for longest; False if none is kept."""
        return self._cache.give_up_oldest()

    def stats(self) -> dict[str, int]:
        """Counts since the start: ``hits``, ``misses``; now: ``entries``, ``bytes``."""
        return self._cache.stats()

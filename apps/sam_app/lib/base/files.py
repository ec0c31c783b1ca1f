"""Atomic replacement of files, also if the process is killed or the power is cut.

A file is written under a temporary name (see :func:`is_leftover`), flushed to the disk (``fsync``) and renamed over the
old one; then its folder is flushed, too. For a file whose loss costs only time, as in a cache, flushing can be skipped:
its replacement is still atomic for readers and if the process is killed. Needs only the standard library.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.part")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WITHOUT_SYNC = (errno.EINVAL, errno.ENOTSUP)
_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS)


@contextmanager
def atomic_write(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a temporary file in the ``with`` block and rename it over ``path``; if the block raises, nothing changes.

    Args:
        path: The file to replace or create; an old one stays until the end of the block.
        private: Give access only to the owner (mode 0600), instead of by the umask.
        durable: Flush it, so that it survives a power cut.

    Yields:
        The temporary file, open for writing. Libraries that open a path themselves can use its ``name``.

    Raises:
        OSError: If it cannot be written; see :func:`is_full`.
    """
    temporary = _temporary_path(path)
    mode = 0o600 if private else 0o666
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
        move(temporary, path, durable=durable)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a file or a folder; a file at the new path is replaced.

    Args:
        source: The present path, on the same file system. The files in a folder must have been flushed before.
        target: The new path.
        durable: As for :func:`atomic_write`.

    Raises:
        OSError: If it cannot be renamed.
    """
    if durable:
        sync(source)
    os.replace(source, target)
    if durable:
        sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk, so that they survive a power cut.

    Raises:
        OSError: If writing fails. A file system that does not support flushing is not an error.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _WITHOUT_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def restored_on_error(paths: Iterable[Path]) -> Iterator[None]:
    """Restore files to their state before the ``with`` block if the block raises; new ones are removed.

    Within the block the files must be replaced or removed, never written in place.

    Raises:
        OSError: If there is no space for backups of the files.
    """
    backups: dict[Path, Path | None] = {}
    try:
        for path in paths:
            backups[path] = _back_up(path)
        yield
    except BaseException:
        for path, backup in backups.items():
            with suppress(OSError):
                if backup is None:
                    path.unlink(missing_ok=True)
                else:
                    os.replace(backup, path)
                sync(path.parent)
        raise
    finally:
        for backup in backups.values():
            if backup is not None:
                with suppress(OSError):
                    backup.unlink(missing_ok=True)


def _back_up(path: Path) -> Path | None:
    """Link or copy a file to a temporary name as a backup, and return its path; None if there is no such file."""
    other = _temporary_path(path)
    try:
        link_or_copy(path, other)
    except FileNotFoundError:
        return None
    except BaseException:
        with suppress(OSError):
            other.unlink(missing_ok=True)
        raise
    return other


def link_or_copy(source: Path, target: Path) -> bool:
    """Link a file to a second path, or copy it if the file system does not support hard links.

    Returns:
        Whether it is a link, which has what the file has that was flushed.

    Raises:
        OSError: If neither is possible.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        shutil.copyfile(source, target)
        return False
    return True


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, or that of all files of a folder.

    Raises:
        OSError: If it does not exist.
    """
    if not path.is_dir():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())


def is_leftover(name: str) -> bool:
    """Return whether a file's name is one of the temporary names used here."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder; no other process may be writing to it."""
    for entry in os.scandir(folder):
        if is_leftover(entry.name):
            with suppress(OSError):
                os.unlink(entry.path)


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 in hexadecimal of an open file's whole content; the file is at its start afterwards.

    Raises:
        OSError: If it cannot be read.
    """
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # typeshed: no readinto of BinaryIO
    file.seek(0)
    return digest.hexdigest()


def is_full(error: BaseException | None) -> bool:
    """Return whether an error means that a disk or a quota is full, or a file's largest size is reached."""
    return isinstance(error, OSError) and error.errno in _FULL


def _temporary_path(path: Path) -> Path:
    """Return an unused temporary path in the same folder."""
    return path.with_name(f".{secrets.token_hex(16)}.part")

"""Files that are there whole or not at all, whatever ends the process or the machine's power.

A file is written aside, under a name that :func:`is_leftover` knows, brought down to the disk (``fsync``), renamed into
its place, and its folder is brought down to the disk, too. Of a file whose loss costs only time, as in a cache, the
disk can be left out: also then no reader and no killed process meets half of one. Needs the standard library alone.
"""

from __future__ import annotations

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
def replacing(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to fill, which takes its place at the end of the ``with`` block; if that raises, nothing has changed.

    Args:
        path: Its place; what is there stays until the end.
        private: For its owner alone (mode 0600), instead of as the umask has it.
        durable: Whether it outlives the machine's power from then on.

    Yields:
        The file. A writer that opens a path takes its ``name``.

    Raises:
        OSError: If it cannot be written; see :func:`is_full`.
    """
    aside = _aside(path)
    mode = 0o600 if private else 0o666
    try:
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
        move(aside, path, durable=durable)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path, *, durable: bool = True) -> None:
    """Give a file, or a folder, another name, where it replaces a file that has it.

    Args:
        source: On the same file system. Of a folder: its files are where they should be already.
        target: Its new path.
        durable: As for :func:`replacing`.

    Raises:
        OSError: If it cannot be done.
    """
    if durable:
        sync(source)
    os.replace(source, target)
    if durable:
        sync(target.parent)


def sync(path: Path) -> None:
    """See to it that a file's content, or a folder's entries, outlive the machine's power.

    Raises:
        OSError: If the disk does not take it. A file system that cannot be asked to is none.
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
    """Have files as they were before the ``with`` block, if that raises; also those that were not there.

    They must be replaced or removed within it, never be written in place.

    Raises:
        OSError: If there is no room for a second name of theirs, or of what the block raises.
    """
    kept: dict[Path, Path | None] = {}
    try:
        for path in paths:
            kept[path] = _second_name(path)
        yield
    except BaseException:
        for path, before in kept.items():
            with suppress(OSError):
                if before is None:
                    path.unlink(missing_ok=True)
                else:
                    os.replace(before, path)
                sync(path.parent)
        raise
    finally:
        for before in kept.values():
            if before is not None:
                with suppress(OSError):
                    before.unlink(missing_ok=True)


def _second_name(path: Path) -> Path | None:
    """A second name of a file; None if there is no such file."""
    other = _aside(path)
    try:
        link_or_copy(path, other)
    except FileNotFoundError:
        return None
    except BaseException:
        with suppress(OSError):
            other.unlink(missing_ok=True)
        raise
    return other


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear at a second path: without a copy of its content where the file system can.

    Raises:
        OSError: If it cannot be done.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        shutil.copyfile(source, target)


def is_leftover(name: str) -> bool:
    """Whether a file's name is one under which files are written aside."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in a folder, which no other process may be writing to."""
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
    """Whether an error says that a disk, a quota or a file's largest size is used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def _aside(path: Path) -> Path:
    """Another path in the same folder, which nothing has."""
    return path.with_name(f".{secrets.token_hex(16)}.part")

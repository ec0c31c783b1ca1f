"""Locks between processes, which the kernel releases when their holder ends (``flock``). Standard library alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(RuntimeError):
    """Another process uses the folder."""


def lock(descriptor: int, *, wait: bool) -> bool:
    """Hold an open file or folder until it is closed, against everybody else who opened and locks it.

    Args:
        descriptor: Of the file or folder.
        wait: Whether to wait until nobody else holds it.

    Returns:
        Whether it is held; never False with ``wait``.

    Raises:
        OSError: If the file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes, and threads, that do the same; waits until it is free.

    Raises:
        OSError: If the folder cannot be opened or locked.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


class FolderLock:
    """Holds a folder by the file ``.lock`` in it until this process ends, however it ends.

    The lock's file also keeps a short note for the next holder.

    Args:
        folder: To be held; it must be there and writable.

    Raises:
        FolderInUseError: If another process holds it.
        OSError: If the lock's file cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            if not lock(descriptor, wait=False):
                raise FolderInUseError(f"another server uses {folder}")
        except BaseException:
            self._file.close()
            raise

    def read(self) -> str:
        """The note of this process or of the one before; empty at first."""
        return os.pread(self._file.fileno(), 100, 0).decode("ascii", "replace").strip()

    def write(self, note: str) -> None:
        """Leave a note of at most 100 ASCII characters, in place of the last one."""
        content = note.encode("ascii", "replace") + b"\n"
        os.pwrite(self._file.fileno(), content, 0)
        os.ftruncate(self._file.fileno(), len(content))

    def release(self) -> None:
        """Let the folder go; a second time does nothing."""
        self._file.close()

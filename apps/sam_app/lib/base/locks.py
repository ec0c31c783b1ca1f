"""Locks between processes (``flock``), which the kernel releases when their holder ends. Only the standard library."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(RuntimeError):
    """Another process uses the folder."""


def lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file or folder until it is closed; others that open and lock it wait or fail.

    Args:
        descriptor: Descriptor of the file or folder.
        wait: Whether to wait while another holder has the lock.

    Returns:
        Whether it is locked; never False with ``wait``.

    Raises:
        OSError: If the file system does not support locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder within the ``with`` block, against other processes and threads; waits until it is free.

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
    """Lock of a folder, by the file ``.lock`` in it, until this process ends for whatever reason.

    The lock's file also stores a short note for the next holder.

    Args:
        folder: The folder; it must exist and be writable.

    Raises:
        FolderInUseError: If another process holds the lock.
        OSError: If the lock's file cannot be created or locked.
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
        """Return the note of this process or of the previous holder; empty at first."""
        return os.pread(self._file.fileno(), 100, 0).decode("ascii", "replace").strip()

    def write(self, note: str) -> None:
        """Replace the note by one of at most 100 ASCII characters."""
        content = note.encode("ascii", "replace") + b"\n"
        os.pwrite(self._file.fileno(), content, 0)
        os.ftruncate(self._file.fileno(), len(content))

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        self._file.close()

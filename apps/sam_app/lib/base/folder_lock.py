"""A folder that one process uses at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderInUseError(RuntimeError):
    """Another process uses the folder."""


class FolderLock:
    """Holds the folder until this process ends, however it ends: the kernel releases the lock (``flock``).

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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FolderInUseError(f"another server uses {folder}") from None
        except OSError:
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

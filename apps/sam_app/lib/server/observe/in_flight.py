"""A file of the requests in progress, so that they are known after the server's process was killed.

A request occupies a slot of the file while it is in progress. The slot is written without ``fsync``: it only has to
survive the end of the process. What the file contains when a server starts was in progress when the last one ended.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_SLOT_BYTES = 1024
_EMPTY = b" " * (_SLOT_BYTES - 1) + b"\n"


class InFlight:
    """The file of one server. Not thread-safe: used only on the event loop.

    Args:
        path: Path of the file; created if need be, with access only for the server's user.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.left = _entries(path.read_bytes())
        """Entries of the requests that were in progress when an earlier server ended."""
        os.ftruncate(self._file, 0)
        self._free: list[int] = []
        self._slots = 0

    def begin(self, entry: dict[str, Any]) -> int:
        """Write an entry for a request in progress, and return its slot for :meth:`end`."""
        line = json.dumps(entry, separators=(",", ":")).encode()
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
        if len(line) < _SLOT_BYTES:
            self._write(slot, line.ljust(_SLOT_BYTES - 1) + b"\n")
        return slot

    def end(self, slot: int) -> None:
        """Remove the entry of a request that is done."""
        self._write(slot, _EMPTY)
        self._free.append(slot)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, slot: int, content: bytes) -> None:
        try:
            os.pwrite(self._file, content, slot * _SLOT_BYTES)
        except OSError as error:  # work on a patient does not stop because a disk is full
            logger.error("The file of the requests in progress could not be written: %s", error.strerror)


def _entries(content: bytes) -> list[dict[str, Any]]:
    """Return the complete entries of the file."""
    entries = []
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries

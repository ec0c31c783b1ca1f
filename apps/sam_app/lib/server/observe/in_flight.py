"""The requests that are being worked on, in a file: what ends the server's process leaves a trace of them.

A request has a slot of the file while it is worked on. It is written without waiting for the disk, which a process that
is killed does not need; what the file holds when a server starts, an earlier one was working on when it ended.
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
    """The file of one server. For one thread: the event loop's.

    Args:
        path: Made if it is not there, for the server's user alone.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.left = _entries(path.read_bytes())
        """What an earlier server was working on when it ended."""
        os.ftruncate(self._file, 0)
        self._free: list[int] = []
        self._slots = 0

    def begin(self, entry: dict[str, Any]) -> int:
        """Write an entry down; its slot, for :meth:`end`."""
        line = json.dumps(entry, separators=(",", ":")).encode()
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
        if len(line) < _SLOT_BYTES:
            self._write(slot, line.ljust(_SLOT_BYTES - 1) + b"\n")
        return slot

    def end(self, slot: int) -> None:
        """The request is done."""
        self._write(slot, _EMPTY)
        self._free.append(slot)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, slot: int, content: bytes) -> None:
        try:
            os.pwrite(self._file, content, slot * _SLOT_BYTES)
        except OSError as error:  # work on a patient does not stop because a disk is full
            logger.error("The requests being worked on could not be written down: %s", error.strerror)


def _entries(content: bytes) -> list[dict[str, Any]]:
    """Those that are whole."""
    entries = []
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries

"""Results on disk: one folder each, named by its timestamp, whole or not there at all.

Concurrency: one lock guards the last timestamp and the table of sizes; no file is touched while it is held. A result is
written into a folder that starts with a dot and renamed when it is complete, so that no reader sees half of one.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\d{1,12}\.\d{6}")
_MICROSECONDS = Decimal("0.000001")


class UnknownResultError(LookupError):
    """There is no such result."""


class NoSpaceError(OSError):
    """The results' disk is full."""


def parse_timestamp(text: str) -> Decimal:
    """A timestamp as a client printed it, to microseconds: ``1732288000.12`` is ``1732288000.120000``.

    Raises:
        ValueError: If it is no plain positive decimal number.
    """
    if not re.fullmatch(r"\d{1,12}(\.\d{0,30})?", text, re.ASCII):
        raise ValueError("a timestamp is a decimal number of seconds, such as 1732288000.123456")
    try:
        return Decimal(text).quantize(_MICROSECONDS)
    except InvalidOperation:
        raise ValueError("the timestamp has too many digits") from None


class PendingResult:
    """A result that is being written.

    Args:
        timestamp: Its name.
        folder: Where its files go until it is complete.
    """

    def __init__(self, timestamp: Decimal, folder: Path) -> None:
        self.timestamp = timestamp
        self.folder = folder

    def write(self, name: str, content: bytes) -> None:
        """Write one of the result's files, down to the disk."""
        with open(self.folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


class ResultStore:
    """The results of one server.

    Args:
        folder: Where they are; made if it is not there, readable by this user alone.
        max_age_seconds: Older results are deleted; 0 keeps them.
        max_bytes: The oldest are deleted above this total; 0 keeps them.

    Raises:
        OSError: If the folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, max_age_seconds: float = 0, max_bytes: float = 0) -> None:
        self._folder = folder
        self._max_age_seconds = max_age_seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob(".*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        found = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        names = sorted(found, key=Decimal)
        self._sizes = {name: _size(folder / name) for name in names}  # oldest first
        self._last = int(Decimal(names[-1]) * 10**6) if names else 0
        self.purge()

    def _next_timestamp(self) -> Decimal:
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            return Decimal(self._last).scaleb(-6)

    @contextmanager
    def new(self) -> Iterator[PendingResult]:
        """A new result: complete at the end of the ``with`` block, gone without a trace if that raises.

        Raises:
            NoSpaceError: If the disk is full.
        """
        timestamp = self._next_timestamp()
        pending = PendingResult(timestamp, self._folder / f".{timestamp:.6f}.part")
        try:
            pending.folder.mkdir(mode=0o700)
            yield pending
            size = _size(pending.folder)
            os.rename(pending.folder, self._folder / f"{timestamp:.6f}")
        except BaseException as error:
            shutil.rmtree(pending.folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError("there is no space left for results") from error
            raise
        with self._lock:
            self._sizes[f"{timestamp:.6f}"] = size
        self.purge()

    def file(self, timestamp: Decimal, name: str) -> Path:
        """The path of a file of a complete result.

        Raises:
            UnknownResultError: If there is no such result, or it has no such file.
        """
        folder = self._folder / f"{timestamp:.6f}"
        if not folder.is_dir():
            raise UnknownResultError(f"there is no result {timestamp.normalize():f}")
        if not (folder / name).is_file():
            raise UnknownResultError(f"the result {timestamp.normalize():f} has no {name}")
        return folder / name

    def purge(self) -> None:
        """Delete results that are too old, then the oldest while all together are too large. Keeps the newest."""
        with self._lock:
            names = sorted(self._sizes, key=Decimal)
            total = sum(self._sizes.values())
            gone: list[str] = []
            for name in names:
                too_old = self._max_age_seconds and time.time() - float(name) > self._max_age_seconds
                too_much = self._max_bytes and total > self._max_bytes and name != names[-1]
                if too_old or too_much:
                    total -= self._sizes.pop(name)
                    gone.append(name)
        for name in gone:
            self._delete(name)

    def _delete(self, name: str) -> None:
        """Take the result away at one stroke, then free its space."""
        aside = self._folder / f".{name}.part"
        try:
            os.rename(self._folder / name, aside)
        except FileNotFoundError:  # somebody deleted it by hand
            return
        shutil.rmtree(aside, ignore_errors=True)
        logger.info("Deleted result %s", name)


def _size(folder: Path) -> int:
    """Bytes of the files of a result."""
    return sum(file.stat().st_size for file in folder.iterdir())

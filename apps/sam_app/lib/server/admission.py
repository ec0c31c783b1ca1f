"""How many segmentations may be worked on or wait at the same time, whichever way they came in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(RuntimeError):
    """As many requests as allowed are being worked on or wait."""


class Admission:
    """Counts those who are in. Its lock is held only while the count changes.

    Args:
        limit: At most this many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._count = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many are in now."""
        return self._count

    def enter(self, *, unconditionally: bool = False) -> None:
        """Come in; every entry needs one :meth:`leave`.

        Args:
            unconditionally: For a request that was accepted before: it counts, but is not refused.

        Raises:
            BusyError: If as many as allowed are in.
        """
        with self._lock:
            if self._count >= self.limit and not unconditionally:
                raise BusyError(f"{self._count} segmentations are being worked on or wait; try again in a few seconds")
            self._count += 1

    def leave(self) -> None:
        """Make room."""
        with self._lock:
            self._count -= 1

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in for the ``with`` block.

        Raises:
            BusyError: If as many as allowed are in.
        """
        self.enter()
        try:
            yield
        finally:
            self.leave()

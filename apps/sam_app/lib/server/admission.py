"""How many segmentations may be worked on or wait at the same time, whichever way they came in."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(RuntimeError):
    """As many requests as allowed are being worked on or wait."""


class Admission:
    """Counts those who are in. Its lock is held only while the count changes.

    A quarter of the places, one at least, is for users who have none: nobody can take all of them. Requests of no
    user, as all are without a login, are free of that.

    Args:
        limit: At most this many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most_of_one = limit - max(1, limit // 4)
        self._count = 0
        self._of_user: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many are in now."""
        return self._count

    def enter(self, user: str = "", *, unconditionally: bool = False) -> None:
        """Come in; every entry needs one :meth:`leave`.

        Args:
            user: Who asks; empty for nobody known.
            unconditionally: For a request that was accepted before: it counts, but is not refused.

        Raises:
            BusyError: If as many as allowed are in, or as many of this user as one may have.
        """
        with self._lock:
            mine = self._of_user[user] if user else 0
            if not unconditionally:
                if self._count >= self.limit:
                    raise BusyError(
                        f"{self._count} segmentations are being worked on or wait; try again in a few seconds"
                    )
                if mine and mine >= self._most_of_one:
                    raise BusyError(
                        f"{mine} segmentations of yours are being worked on or wait, and the other places are for "
                        "other users; try again in a few seconds"
                    )
            self._count += 1
            if user:
                self._of_user[user] += 1

    def leave(self, user: str = "") -> None:
        """Make room.

        Args:
            user: As when coming in.
        """
        with self._lock:
            self._count -= 1
            if user:
                self._of_user[user] -= 1
                self._of_user += Counter()  # who has none is forgotten

    @contextmanager
    def inside(self, user: str = "") -> Iterator[None]:
        """Be in for the ``with`` block.

        Args:
            user: As for :meth:`enter`.

        Raises:
            BusyError: As :meth:`enter`.
        """
        self.enter(user)
        try:
            yield
        finally:
            self.leave(user)

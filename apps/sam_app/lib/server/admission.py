"""Limit of the segmentations that are processed or wait at the same time, from all routes together."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(RuntimeError):
    """As many requests as allowed are being processed or wait."""


class Admission:
    """Counter of the segmentations in progress or waiting. Its lock is held only while the count changes.

    A quarter of the places, at least one, is reserved for users who have none, so that no user can take all of them.
    This does not apply to requests without a user, as all are without a login.

    Args:
        limit: Maximum number of segmentations.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._limit_per_user = limit - max(1, limit // 4)
        self.count = 0
        """The current number of segmentations."""
        self._of_user: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, user: str = "", *, unconditionally: bool = False) -> None:
        """Take a place; each one needs a :meth:`leave`.

        Args:
            user: Whose request it is; empty without a user.
            unconditionally: For a request that was accepted before: it counts, but is not refused.

        Raises:
            BusyError: If all places are taken, or as many by this user as one user may have.
        """
        with self._lock:
            mine = self._of_user[user] if user else 0
            if not unconditionally:
                if self.count >= self.limit:
                    raise BusyError(
                        f"{self.count} segmentations are being worked on or wait; try again in a few seconds"
                    )
                if mine and mine >= self._limit_per_user:
                    raise BusyError(
                        f"{mine} segmentations of yours are being worked on or wait, and the other places are for "
                        "other users; try again in a few seconds"
                    )
            self.count += 1
            if user:
                self._of_user[user] += 1

    def leave(self, user: str = "") -> None:
        """Free a place of a user, as for :meth:`enter`."""
        with self._lock:
            self.count -= 1
            if user:
                self._of_user[user] -= 1
                self._of_user += Counter()  # removes users with none

    @contextmanager
    def inside(self, user: str = "") -> Iterator[None]:
        """Hold a place for the ``with`` block; arguments and errors are those of :meth:`enter`."""
        self.enter(user)
        try:
            yield
        finally:
            self.leave(user)

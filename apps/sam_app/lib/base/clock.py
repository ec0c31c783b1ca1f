"""Measurement of the time that a piece of work takes, stage by stage, and its time limit.

A :class:`Clock` is started where work begins: for a request, or for a queued segmentation. The functions called from
there get it from :func:`current_clock`, in the thread that does the work. Python cannot stop a thread from outside;
therefore the work itself checks the clock between its steps and while it waits, and ends with :class:`TimeLimitError`.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

POLL_S = 0.1
"""Interval at which waiting work checks whether it must end, in seconds."""


class TimeLimitError(RuntimeError):
    """The work exceeded its time limit; no part of its result is stored."""


class ClientDisconnectedError(TimeLimitError):
    """The client has disconnected, so nobody waits for the work."""


class PreemptedError(RuntimeError):
    """The work was interrupted for other work; no part of its result is stored."""


class Clock:
    """Clock and time limit of one piece of work; starts when it is created.

    Args:
        seconds: Time limit of the work; infinity: no limit.
        gives_way: Whether it is work that nobody waits for, a batch's, and gives way to all other; see
            :mod:`lib.sam.device_queue`.
    """

    def __init__(self, seconds: float = math.inf, *, gives_way: bool = False) -> None:
        self.gives_way = gives_way
        self._limit = seconds
        self._started = time.monotonic()
        self._uncounted = 0.0
        self._stands_since: float | None = None
        self._is_cancelled = False
        self._adding = threading.Lock()
        self.stages: dict[str, float] = {}
        """Seconds by stage, in the order in which the stages were first entered; work in two threads counts twice."""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> float:
        """Seconds until the time limit, at least 0; infinity without a limit."""
        now = time.monotonic()
        uncounted = self._uncounted + (now - (self._stands_since or now))
        return max(0.0, self._limit - (now - self._started - uncounted))

    def stand_still(self, since: float) -> None:
        """Do not count the time from a moment of ``time.monotonic`` on towards the limit, until :meth:`go_on`."""
        self._stands_since = since

    def go_on(self) -> None:
        """Count the time again."""
        if self._stands_since is not None:
            self._uncounted += time.monotonic() - self._stands_since
            self._stands_since = None

    def cancel(self) -> None:
        """Make the work end at its next check, because nobody waits for it."""
        self._is_cancelled = True

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the work any more."""
        return self._is_cancelled

    @property
    def is_over(self) -> bool:
        """Whether the work must end."""
        return self._is_cancelled or self.remaining == 0

    def check(self) -> None:
        """Raise if the work must end.

        Raises:
            ClientDisconnectedError: If it was cancelled.
            TimeLimitError: If its time limit is reached.
        """
        if self._is_cancelled:
            raise ClientDisconnectedError("the client has left")
        if self.remaining == 0:
            raise TimeLimitError(f"timed out after {self._limit:g} s (max_seconds)")

    def wait_until(self, happens: Callable[[float], bool]) -> bool:
        """Wait for an event, but only until the work must end.

        Args:
            happens: Waits at most the given seconds, and returns whether the event happened, like ``Event.wait``.

        Returns:
            Whether it happened; if not, :meth:`check` raises the reason.
        """
        while not happens(min(self.remaining, POLL_S)):
            if self.is_over:
                return False
        return True

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the ``with`` block to a stage, also when it raises; checks the limit first.

        Raises:
            TimeLimitError: If the time limit is reached before the block.
        """
        self.check()
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere to a stage."""
        with self._adding:
            self.stages[name] = self.stages.get(name, 0.0) + seconds


_current: ContextVar[Clock | None] = ContextVar("clock", default=None)


def current_clock() -> Clock:
    """Return the clock of the work in this thread or task; outside of any work, a new one without a limit."""
    return _current.get() or Clock()


@contextmanager
def use_clock(clock: Clock) -> Iterator[Clock]:
    """Make a clock the current one within the ``with`` block."""
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)

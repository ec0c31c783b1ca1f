"""How long one piece of work takes, stage by stage, and how long it may take.

A :class:`Clock` is started where work begins: for a request, or for a segmentation that was put into the queue.
Everything below finds it by :func:`current_clock`, in the thread that does the work. Python cannot stop a thread from
outside, so that the work itself looks at the clock between its steps and ends with :class:`TimeLimitError`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TimeLimitError(RuntimeError):
    """The work took longer than it may; nothing of it is kept."""


class Clock:
    """Started when it is made.

    Args:
        seconds: How long the work may take; infinity for as long as it needs.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._limit = seconds
        self._started = time.monotonic()
        self.stages: dict[str, float] = {}
        """Seconds by stage, in the order in which the stages were first entered."""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> float:
        """Seconds that are left, at least 0; infinity without a limit."""
        return max(0.0, self._limit - self.elapsed)

    def check(self) -> None:
        """Go on only if there is time left.

        Raises:
            TimeLimitError: If there is none.
        """
        if self.remaining == 0:
            raise TimeLimitError(f"the work was given up after {self._limit:g} seconds, the limit of this server")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the ``with`` block to a stage, also when it raises; checks the limit first.

        Raises:
            TimeLimitError: If there is no time left to begin it.
        """
        self.check()
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage what was measured elsewhere."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds


_current: ContextVar[Clock | None] = ContextVar("clock", default=None)


def current_clock() -> Clock:
    """The clock of the work that this thread or task does; one without a limit, which nobody reads, outside of any."""
    return _current.get() or Clock()


@contextmanager
def use_clock(clock: Clock) -> Iterator[Clock]:
    """Make it the current one within the ``with`` block."""
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)

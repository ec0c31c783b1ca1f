"""How long one piece of work takes, stage by stage, and how long it may take.

A :class:`Clock` is started where work begins: for a request, or for a segmentation that was put into the queue.
Everything below finds it by :func:`current_clock`, in the thread that does the work. Python cannot stop a thread from
outside, so that the work itself looks at the clock between its steps and while it waits, and ends with
:class:`TimeLimitError`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOOK_S = 0.1
"""How often work that waits looks whether it is to end, in seconds."""


class TimeLimitError(RuntimeError):
    """The work took longer than it may; nothing of it is kept."""


class ClientLeftError(TimeLimitError):
    """Nobody waits for the work any more."""


class PreemptedError(RuntimeError):
    """The work gave way to other work; nothing of it is kept."""


class Clock:
    """Started when it is made.

    Args:
        seconds: How long the work may take; infinity for as long as it needs.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._limit = seconds
        self._started = time.monotonic()
        self._is_cancelled = False
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

    def cancel(self) -> None:
        """Nobody waits for the work any more: it is to end at its next step."""
        self._is_cancelled = True

    @property
    def is_over(self) -> bool:
        """Whether the work is to end."""
        return self._is_cancelled or self.remaining == 0

    def check(self) -> None:
        """Go on only if there is time left and somebody waits.

        Raises:
            ClientLeftError: If nobody does.
            TimeLimitError: If there is no time left.
        """
        if self._is_cancelled:
            raise ClientLeftError("the client has left")
        if self.remaining == 0:
            raise TimeLimitError(f"the work was given up after {self._limit:g} seconds, the limit of this server")

    def waits_for(self, happens: Callable[[float], bool]) -> bool:
        """Wait for something, as long as the work may go on.

        Args:
            happens: Waits at most so many seconds, and tells whether it happened: ``Event.wait``.

        Returns:
            Whether it happened; if not, :meth:`check` says why the work is to end.
        """
        while not happens(min(self.remaining, LOOK_S)):
            if self.is_over:
                return False
        return True

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

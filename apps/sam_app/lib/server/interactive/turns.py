"""Requests of one session take turns, each until its answer is sent; what one leaves undone goes on between them.

Concurrency: all of this runs on the event loop, where waiting costs no thread. What is left undone runs in a thread of
its own, of low priority, and holds the turn; the next request ends it at the next check of its clock, and goes on from
what it has found.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from lib.base.clock import Clock, PreemptedError, TimeLimitError, current_clock, use_clock
from lib.base.threads import failed
from lib.sam.device_queue import lower_priority

_THREAD = "interactive-rest"


class Turns:
    """The turns of one session."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._has_ended = False
        self._rest: Clock | None = None
        self._task: asyncio.Task[None] | None = None  # the event loop itself does not keep it

    @property
    def is_idle(self) -> bool:
        """Whether no request has its turn or waits for it, and nothing is worked off; may be asked by any thread."""
        return not self._waiting and not self._lock.locked()

    @asynccontextmanager
    async def next(self) -> AsyncIterator[None]:
        """Wait for a request's turn, and hold it within the ``async with`` block.

        Raises:
            TimeLimitError: If the request's time is up, or its client has left, when its turn comes.
        """
        self._waiting += 1
        self._interrupt()
        try:
            with current_clock().stage("wait"):
                await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            current_clock().check()
            yield
        finally:
            self._lock.release()

    def go_on(self, work: Callable[[], None]) -> None:
        """Do what is left when no request has its turn or waits for it.

        Args:
            work: Checks the current clock, as all work does; may be ended at any check.
        """
        self._task = asyncio.get_running_loop().create_task(self._work_off(work))

    def end(self) -> None:
        """End what is being done between requests, for good; may be called by any thread."""
        self._has_ended = True
        self._interrupt()

    def _interrupt(self) -> None:
        rest = self._rest
        if rest is not None:
            rest.cancel()

    async def _work_off(self, work: Callable[[], None]) -> None:
        async with self._lock:
            if self._waiting or self._has_ended:
                return
            self._rest = clock = Clock()
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def run() -> None:
                lower_priority()
                try:
                    with use_clock(clock):
                        work()
                except (TimeLimitError, PreemptedError):
                    pass
                except Exception as error:
                    failed(_THREAD, error)
                finally:
                    with suppress(RuntimeError):  # the server has stopped
                        loop.call_soon_threadsafe(done.set)

            threading.Thread(target=run, name=_THREAD, daemon=True).start()
            try:
                await done.wait()
            finally:
                clock.cancel()
                self._rest = None

"""Queue for a device: one job at a time uses all of it, and no click waits for a prefetch.

Concurrency: one thread does the work of a device, in this order: jobs that a request waits for, first come first
served; then prefetches, those of the newest user first. A prefetch starts only while no request waits, encodes or
decodes, and checks every few milliseconds whether it must stop for one. The number of waiting jobs is bounded by the
server's admission; prefetches, by :data:`MAX_OWNERS` and by what each owner submits. The queue of a group of workers
does the same with a thread for each of them; there a prefetch starts also while others encode, on a free worker.

The thread has a lower priority than all others (its niceness), so that the kernel prefers decoding and light routes
whenever they have something to do. It starts with the first job; at its end the interpreter waits for the running job,
because a thread must not be killed inside native code.

Lock order: the queue's one lock guards its tables and is never held while work runs. Work that runs here may take the
caches' locks; code that holds one of them must not call :meth:`DeviceQueue.run`.

Own code: executors of the standard library have neither two priorities nor work that is interrupted and repeated.
"""

import atexit
import contextvars
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from lib.base.clock import PreemptedError, TimeLimitError, current_clock
from lib.base.threads import failed, start_watched

T = TypeVar("T")

ShouldStop = Callable[[], bool]
"""Called by work that can be interrupted; returns whether it must stop."""

PrefetchWork = Callable[[ShouldStop], None]
"""One step of a prefetch; raises :class:`PreemptedError` if it was interrupted, and is then repeated later."""

MAX_OWNERS = 32
"""Maximum of owners with prefetches; those of the owner who submitted longest ago are dropped first."""

NICENESS = 10

_MAX_END_WAIT_S = 60.0
"""Seconds for which the interpreter waits, at its end, for the running work."""


def lower_priority(niceness: int = NICENESS) -> None:
    """Lower the priority of the calling thread only; Linux has a niceness (0 to 19) per thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@dataclass
class _Job:
    work: Callable[[], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    asked: float = field(default_factory=time.monotonic)
    started: threading.Event = field(default_factory=threading.Event)
    outcome: Future[Any] = field(default_factory=Future)

    def do(self) -> None:
        """Run the work in the queue's thread, in the caller's context, so that the caller's clock counts the stages."""
        self.started.set()
        try:
            self.context.run(current_clock).add("wait", time.monotonic() - self.asked)
            self.outcome.set_result(self.context.run(self.work))
        except BaseException as error:
            self.outcome.set_exception(error)


@dataclass(eq=False)
class _Prefetches:
    """What is left of one owner's list: steps that wait, the next one first, and the number of those that run."""

    steps: deque[PrefetchWork]
    running: int = 0


def _one() -> int:
    return 1


class DeviceQueue:
    """Queue of the work of one device, or of a group of workers.

    Args:
        niceness: Niceness of its threads, 0 to 19 (``nice(2)``).
        width: Returns how much work may run at the same time now, which can change; with 0 it is as with 1, so that the
            work itself can say what is missing.
    """

    def __init__(self, niceness: int = NICENESS, *, width: Callable[[], int] = _one) -> None:
        self._niceness = niceness
        self._width = width
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: deque[_Job] = deque()
        self._prefetches: OrderedDict[str, _Prefetches] = OrderedDict()
        self._attended = 0
        self._busy = 0
        self._threads: list[threading.Thread] = []
        self._ending = False

    def run(self, work: Callable[[], T]) -> T:
        """Run work on the device when its turn comes, and return its result; the caller's clock counts the wait, too.

        Raises:
            TimeLimitError: If the current clock's time is up before the work starts.
            Exception: What ``work`` raises.
        """
        if threading.current_thread() in self._threads:
            return work()
        clock = current_clock()
        clock.check()
        job = _Job(work)
        with self._lock:
            self._jobs.append(job)
            self._wake()
        if not clock.wait_until(job.started.wait):
            with self._lock, suppress(ValueError):  # not in the queue any more: it has just started, wait for it
                self._jobs.remove(job)
                if clock.remaining:
                    clock.check()
                raise TimeLimitError("the device was not free within the time that this server allows")
        return cast(T, job.outcome.result())

    def run_prefetch(self, owner: str, steps: Sequence[PrefetchWork]) -> None:
        """Submit prefetches, done in this order while no request waits; they replace the owner's earlier ones.

        Args:
            owner: The user they are for.
            steps: The prefetches; an empty list cancels the owner's earlier ones.
        """
        with self._lock:
            self._prefetches.pop(owner, None)
            if steps:
                self._prefetches[owner] = _Prefetches(deque(steps))
                self._wake()
            while len(self._prefetches) > MAX_OWNERS:
                self._prefetches.popitem(last=False)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Start no prefetch within the ``with`` block, in which a request does other work, such as a decode."""
        with self._lock:
            self._attended += 1
        try:
            yield
        finally:
            with self._lock:
                self._attended -= 1
                self._changed.notify_all()

    def stats(self) -> dict[str, int]:
        """Return the present numbers of ``waiting`` jobs and of prefetches of all owners, ``ahead``."""
        with self._lock:
            ahead = sum(len(listed.steps) + listed.running for listed in self._prefetches.values())
            return {"waiting": len(self._jobs), "ahead": ahead}

    def _free(self) -> int:
        """Return how much more work may start; call with the lock held."""
        return max(1, self._width()) - self._busy

    def _wake(self) -> None:
        """Wake the threads, and start those that are missing; call with the lock held."""
        if not self._threads:
            atexit.register(self._end)
        while len(self._threads) < max(1, self._width()):
            self._threads.append(start_watched("device", self._work))
        self._changed.notify_all()

    def _end(self) -> None:
        """End the threads; runs at the interpreter's end."""
        with self._lock:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_MAX_END_WAIT_S)

    def _work(self) -> None:
        lower_priority(self._niceness)
        while (work := self._next()) is not None:
            try:
                work()
            finally:
                with self._lock:
                    self._busy -= 1
                    self._changed.notify_all()
            del work  # so that the waiting thread holds neither the last image nor its model

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next work, which is counted as running; None at the end."""
        with self._lock:
            while not self._ending:
                if self._free() > 0 and (work := self._begun()) is not None:
                    self._busy += 1
                    return work
                self._changed.wait()
        return None

    def _begun(self) -> Callable[[], None] | None:
        """Take the next work from the tables; call with the lock held."""
        if self._jobs:
            return self._jobs.popleft().do
        if not self._attended:
            for owner, listed in reversed(self._prefetches.items()):
                if listed.steps:
                    listed.running += 1
                    return partial(self._run_prefetch, owner, listed, listed.steps.popleft())
        return None

    def _run_prefetch(self, owner: str, listed: _Prefetches, step: PrefetchWork) -> None:
        """Run one step; if it was interrupted, it becomes the first of its list again."""

        def should_stop() -> bool:
            is_awaited = len(self._jobs) > max(0, self._free())
            return self._ending or is_awaited or self._prefetches.get(owner) is not listed

        is_interrupted = False
        try:
            step(should_stop)
        except PreemptedError:
            is_interrupted = True
        except Exception as error:  # no request waits for it; a later click there reports the error
            failed("device", error)
        finally:
            with self._lock:
                listed.running -= 1
                if is_interrupted:
                    listed.steps.appendleft(step)
                if not listed.steps and not listed.running and self._prefetches.get(owner) is listed:
                    del self._prefetches[owner]

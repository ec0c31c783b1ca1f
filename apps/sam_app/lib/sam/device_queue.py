"""Who gets the device: one piece of work at a time uses all of it, and no click waits for work ahead of its time.

Concurrency: one thread does the work of a device, in this order: what somebody waits for, first come first served;
then what is done ahead of the users, the newest user's first. What is ahead starts only while nobody waits, encodes or
decodes, and looks every few milliseconds whether it has to give way. How many wait is bounded by the server's
admission; what is ahead, by :data:`MAX_OWNERS` and by what each owner hands in.

The thread has a lower priority than all others (its niceness), so that the kernel prefers decoding and light routes
whenever they have something to do. It is started at the first work, and the interpreter waits at its end for the piece
of work that is being done: native code must not lose its thread.

Lock order: the queue's one lock guards its tables and is held for no work at all. Work that runs here may take the
caches' locks; nothing that holds one of them may call :meth:`DeviceQueue.run`.

Own code: executors of the standard library know neither two priorities nor work that gives way and is done anew.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lib.base.clock import PreemptedError, TimeLimitError, current_clock
from lib.base.threads import failed, start_watched

T = TypeVar("T")

ShouldStop = Callable[[], bool]
"""Asked by work that can be given up: whether it has to."""

PrefetchWork = Callable[[ShouldStop], None]
"""One step of work ahead; raises :class:`PreemptedError` where it gave way, and is then done anew later."""

MAX_OWNERS = 32
"""Whose work ahead is kept; the longest unheard of is forgotten first."""

NICENESS = 10

_END_S = 60.0
"""How long the interpreter waits, at its end, for the work that is being done."""


def lower_priority(niceness: int = NICENESS) -> None:
    """Have the calling thread, and no other, go last: Linux counts niceness (0 to 19) by thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@dataclass
class _Job:
    work: Callable[[], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    asked: float = field(default_factory=time.monotonic)
    started: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    error: BaseException | None = None

    def do(self) -> None:
        """In the queue's thread, in the context of who asked, so that its clock counts the stages."""
        self.started.set()
        try:
            self.context.run(current_clock).add("wait", time.monotonic() - self.asked)
            self.answer = self.context.run(self.work)
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()


class DeviceQueue:
    """The work of one device.

    Args:
        niceness: Of the thread that does it, 0 to 19 (``nice(2)``).
    """

    def __init__(self, niceness: int = NICENESS) -> None:
        self._niceness = niceness
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: deque[_Job] = deque()
        self._ahead: OrderedDict[str, deque[PrefetchWork]] = OrderedDict()
        self._attended = 0
        self._thread: threading.Thread | None = None
        self._ending = False

    def run(self, work: Callable[[], T]) -> T:
        """Do it when its turn comes, and wait for that. Its stages and the wait are counted on the caller's clock.

        Raises:
            TimeLimitError: If the current clock's time is up before it was begun.
            Exception: What ``work`` raises.
        """
        if threading.current_thread() is self._thread:
            return work()
        clock = current_clock()
        clock.check()
        job = _Job(work)
        with self._lock:
            self._jobs.append(job)
            self._wake()
        if not clock.wait_until(job.started.wait):
            with self._lock, suppress(ValueError):  # it has been begun in this moment: wait for it
                self._jobs.remove(job)
                if clock.remaining:
                    clock.check()
                raise TimeLimitError("the device was not free within the time that this server allows")
        job.done.wait()
        if job.error is not None:
            raise job.error
        answer: T = job.answer
        return answer

    def run_prefetch(self, owner: str, steps: Sequence[PrefetchWork]) -> None:
        """Do these, in their order, while nobody waits; they take the place of what this owner handed in before.

        Args:
            owner: For whom; an owner has one list, the last.
            steps: None to do nothing for this owner any more.
        """
        with self._lock:
            self._ahead.pop(owner, None)
            if steps:
                self._ahead[owner] = deque(steps)
                self._wake()
            while len(self._ahead) > MAX_OWNERS:
                self._ahead.popitem(last=False)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """While somebody waits for work elsewhere, such as a decode: nothing ahead is begun meanwhile."""
        with self._lock:
            self._attended += 1
        try:
            yield
        finally:
            with self._lock:
                self._attended -= 1
                self._changed.notify()

    def stats(self) -> dict[str, int]:
        """Now: ``waiting`` pieces of work, and ``ahead``, steps of all owners."""
        with self._lock:
            return {"waiting": len(self._jobs), "ahead": sum(map(len, self._ahead.values()))}

    def _wake(self) -> None:
        """With the lock held."""
        if self._thread is None:
            atexit.register(self._end)
            self._thread = start_watched("device", self._work)
        self._changed.notify()

    def _end(self) -> None:
        """At the interpreter's end."""
        with self._lock:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _work(self) -> None:
        lower_priority(self._niceness)
        while True:
            with self._lock:
                while not self._ending and not self._jobs and (self._attended or not self._ahead):
                    self._changed.wait()
                if self._ending:
                    return
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    owner, steps = next(reversed(self._ahead.items()))
                    step = steps[0]
            if job is not None:
                job.do()
            else:
                self._run_prefetch(owner, steps, step)
                del steps, step
            del job  # while the thread waits, it keeps neither the last image nor its model

    def _run_prefetch(self, owner: str, steps: deque[PrefetchWork], step: PrefetchWork) -> None:
        """One step; it stays the first of its list if it gave way."""

        def should_stop() -> bool:
            return self._ending or bool(self._jobs) or self._ahead.get(owner) is not steps

        try:
            step(should_stop)
        except PreemptedError:
            return
        except Exception as error:  # nobody asked for it: who clicks there is told what is wrong
            failed("device", error)
        with self._lock:
            steps.popleft()
            if not steps and self._ahead.get(owner) is steps:
                del self._ahead[owner]

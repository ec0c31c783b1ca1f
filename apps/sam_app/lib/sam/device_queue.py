"""Queue for a device: one job at a time uses all of it, and no click waits for a prefetch or a batch.

Concurrency: one thread does the work of a device, in this order: jobs that a request waits for, first come first
served; then prefetches, those of the newest user first; then jobs of a batch, those whose clock gives way. Prefetches
and a batch's jobs start only while no request waits, encodes or decodes, and check every few milliseconds whether they
must stop for one; they are repeated later. A batch's job starts only while no prefetch waits, but does not stop for it:
prefetches are few, and half an encode would be lost for each. Who clicks all day holds up a batch all day. The number
of waiting jobs is bounded by the server's admission; prefetches, by :data:`MAX_OWNERS` and by what each owner submits.
The queue of a group of workers does the same with a thread for each of them; there prefetches and a batch's jobs start
also while others encode, on free workers, and one of them stops for each request that would have no worker.

The thread has a lower priority than all others (its niceness), so that the kernel prefers decoding and light routes
whenever they have something to do. It starts with the first job; at its end the interpreter waits for the running job,
because a thread must not be killed inside native code.

Lock order: the queue's one lock guards its tables and is never held while work runs. Work that runs here may take the
caches' locks; code that holds one of them must not call :meth:`DeviceQueue.run`.

Own code: executors of the standard library have neither priorities nor work that is interrupted and repeated.
"""

import atexit
import contextvars
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from lib.base.clock import Clock, PreemptedError, TimeLimitError, current_clock
from lib.base.threads import failed, start_watched
from lib.sam.runtimes.runtime import never

T = TypeVar("T")

ShouldStop = Callable[[], bool]
"""Called by work that can be interrupted; returns whether it must stop."""

PrefetchWork = Callable[[ShouldStop], None]
"""One step of a prefetch; raises :class:`PreemptedError` if it was interrupted, and is then repeated later.

Steps that are equal do the same: one that runs goes on if the owner's new list has its equal.
"""

MAX_OWNERS = 32
"""Maximum of owners with prefetches; those of the owner who submitted longest ago are dropped first."""

NICENESS = 10

_MAX_END_WAIT_S = 60.0
"""Seconds for which the interpreter waits, at its end, for the running work."""

_LOOK_EVERY_S = 0.5
"""Interval at which it is looked whether waiting work may begin, as nobody tells when a width has changed."""


def lower_priority(niceness: int = NICENESS) -> None:
    """Lower the priority of the calling thread only; Linux has a niceness (0 to 19) per thread."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@dataclass
class _Job:
    work: Callable[[], Any]
    clock: Clock
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    asked: float = field(default_factory=time.monotonic)
    outcome: Future[Any] = field(default_factory=Future)

    def do(self) -> bool:
        """Run the work in the queue's thread, in the caller's context, so that the caller's clock counts the stages.

        Returns:
            Whether it has ended; if not, it gave way and is to be repeated, as if it had not begun.
        """
        began = time.monotonic()
        self.clock.go_on()
        self.clock.add("wait", began - self.asked)
        try:
            self.outcome.set_result(self.context.run(self.work))
        except BaseException as error:
            if isinstance(error, PreemptedError) and self.clock.gives_way and not self.clock.is_over:
                self.asked = time.monotonic()
                self.clock.stand_still(began)
                return False
            self.outcome.set_exception(error)
        return True


@dataclass(eq=False)
class _Prefetches:
    """What is left of one owner's list: steps that wait, the next one first, and those that run."""

    steps: deque[PrefetchWork]
    running: list[PrefetchWork] = field(default_factory=list)


def _one() -> int:
    return 1


def _none() -> int:
    return 0


class DeviceQueue:
    """Queue of the work of one device, or of a group of workers.

    Args:
        niceness: Niceness of its threads, 0 to 19 (``nice(2)``).
        width: Returns how much work may run at the same time now, which can change; with 0 it is as with 1, so that the
            work itself can say what is missing.
        ahead_width: Returns how much of it there may be in all for a prefetch or a batch's job to begin or go on;
            None: as ``width``.
        elsewhere: Returns how many requests of other queues wait for the same workers or use them.
    """

    def __init__(
        self,
        niceness: int = NICENESS,
        *,
        width: Callable[[], int] = _one,
        ahead_width: Callable[[], int] | None = None,
        elsewhere: Callable[[], int] = _none,
    ) -> None:
        self._niceness = niceness
        self._width = width
        self._ahead_width = ahead_width or width
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: deque[_Job] = deque()
        self._prefetches: OrderedDict[str, _Prefetches] = OrderedDict()
        self._batch: deque[_Job] = deque()
        self._attended = 0
        self._busy = 0
        self._yielding = 0  # of the work that runs, that which gives way to requests
        self._stopping: set[int] = set()  # the threads whose work was told to do so
        self._threads: list[threading.Thread] = []
        self._ending = False

    def run(self, work: Callable[[], T], is_awaited: Callable[[], bool] = never) -> T:
        """Run work on the device when its turn comes, and return its result; the caller's clock counts the wait, too.

        If the current clock gives way, this is a batch's work: its turn comes last, and it is repeated if it raises
        :class:`PreemptedError`, as :meth:`must_stop` asks for. What it waits and what it repeats does not count towards
        the clock's limit.

        Args:
            work: The work.
            is_awaited: Returns whether a request waits for a batch's work, which then waits as a request's.

        Raises:
            TimeLimitError: If the current clock's time is up before the work starts.
            Exception: What ``work`` raises.
        """
        if threading.current_thread() in self._threads:
            return work()
        clock = current_clock()
        clock.check()
        job = _Job(work, clock)
        if clock.gives_way:
            clock.stand_still(job.asked)
        with self._lock:
            (self._batch if clock.gives_way else self._jobs).append(job)
            self._wake()

        def has_ended(seconds: float) -> bool:
            if clock.gives_way and is_awaited():
                self._put_forward(job)
            return not wait([job.outcome], seconds).not_done

        if not clock.wait_until(has_ended) and self._withdraw(job):
            if clock.remaining:
                clock.check()
            raise TimeLimitError("the device was not free within the time that this server allows")
        return cast(T, job.outcome.result())

    def _put_forward(self, job: _Job) -> None:
        """Let a batch's job that waits wait as a request's."""
        with self._lock, suppress(ValueError):  # it runs
            self._batch.remove(job)
            self._jobs.append(job)
            self._wake()

    def _withdraw(self, job: _Job) -> bool:
        """Remove a job that waits; return False if it runs or has ended."""
        with self._lock:
            for waiting in (self._jobs, self._batch):
                with suppress(ValueError):
                    waiting.remove(job)
                    return True
        return False

    def must_stop(self) -> bool:
        """Return whether what this thread does, a prefetch or a batch's work, must stop for a request.

        Called by the work, every few milliseconds; once it has returned True the work stops, as no other does instead.
        """
        with self._lock:
            requests = self._requests() + self._elsewhere()
            too_many = requests + self._yielding - max(1, self._ahead_width())
            if min(requests, too_many) > len(self._stopping):
                self._stopping.add(threading.get_ident())
            return self._ending or threading.get_ident() in self._stopping

    def run_prefetch(self, owner: str, steps: Sequence[PrefetchWork]) -> None:
        """Submit prefetches, done in this order while no request waits; they replace the owner's earlier ones.

        Args:
            owner: The user they are for.
            steps: The prefetches; an empty list cancels the owner's earlier ones.
        """
        with self._lock:
            before = self._prefetches.pop(owner, None)
            if steps:
                running = [step for step in before.running if step in steps] if before else []
                left = deque(step for step in steps if step not in running)
                self._prefetches[owner] = _Prefetches(left, running)
                self._wake()
            while len(self._prefetches) > MAX_OWNERS:
                self._prefetches.popitem(last=False)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Start nothing but requests within the ``with`` block, in which a request does other work, such as a decode.

        A batch's decode holds up nothing.
        """
        if current_clock().gives_way:
            yield
            return
        with self._lock:
            self._attended += 1
        try:
            yield
        finally:
            with self._lock:
                self._attended -= 1
                self._changed.notify_all()

    def stats(self) -> dict[str, int]:
        """Return the present numbers of ``waiting`` jobs, of prefetches of all owners, ``ahead``, and of a ``batch``.

        Of a batch those that wait; of prefetches also those that run.
        """
        with self._lock:
            ahead = sum(len(listed.steps) + len(listed.running) for listed in self._prefetches.values())
            return {"waiting": len(self._jobs), "ahead": ahead, "batch": len(self._batch)}

    def requests(self) -> int:
        """Return how many jobs wait or run that somebody waits for."""
        with self._lock:
            return self._requests()

    def _requests(self) -> int:
        """See :meth:`requests`; call with the lock held."""
        return len(self._jobs) + self._busy - self._yielding

    def _wake(self) -> None:
        """Wake the threads, and start those that are missing; call with the lock held."""
        if not self._threads:
            atexit.register(self._end)
        while len(self._threads) < max(1, self._width(), self._ahead_width()):
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
        while (begun := self._next()) is not None:
            work, gives_way = begun
            try:
                work()
            finally:
                with self._lock:
                    self._busy -= 1
                    self._yielding -= gives_way
                    self._stopping.discard(threading.get_ident())
                    self._wake()
            del begun, work  # so that the waiting thread holds neither the last image nor its model

    def _next(self) -> tuple[Callable[[], None], bool] | None:
        """Wait for the next work, which is counted as running, and whether it gives way; None at the end."""
        with self._lock:
            while not self._ending:
                if (begun := self._begun()) is not None:
                    self._busy += 1
                    self._yielding += begun[1]
                    return begun
                waits = self._jobs or self._batch or any(listed.steps for listed in self._prefetches.values())
                self._changed.wait(_LOOK_EVERY_S if waits else None)
        return None

    def _begun(self) -> tuple[Callable[[], None], bool] | None:
        """Take the next work from the tables, if it may begin; call with the lock held."""
        if self._jobs:
            may_begin = self._busy < max(1, self._width())
            return (partial(self._run_job, self._jobs.popleft()), False) if may_begin else None
        if self._attended or self._busy + self._elsewhere() >= max(1, self._ahead_width()):
            return None
        for owner, listed in reversed(self._prefetches.items()):
            if listed.steps:
                step = listed.steps.popleft()
                listed.running.append(step)
                return partial(self._run_prefetch, owner, step), True
        return (partial(self._run_job, self._batch.popleft()), True) if self._batch else None

    def _run_job(self, job: _Job) -> None:
        """Run a job; if it gave way, it becomes the batch's first again."""
        if not job.do():
            with self._lock:
                self._batch.appendleft(job)

    def _run_prefetch(self, owner: str, step: PrefetchWork) -> None:
        """Run one step; if it was interrupted, it becomes the first of its list again, unless it is not listed now."""

        def should_stop() -> bool:
            listed = self._prefetches.get(owner)
            return listed is None or step not in listed.running or self.must_stop()

        is_interrupted = False
        try:
            step(should_stop)
        except PreemptedError:
            is_interrupted = True
        except Exception as error:  # no request waits for it; a later click there reports the error
            failed("device", error)
        finally:
            with self._lock:
                listed = self._prefetches.get(owner)
                if listed is not None and step in listed.running:
                    listed.running.remove(step)
                    if is_interrupted:
                        listed.steps.appendleft(step)
                    if not listed.steps and not listed.running:
                        del self._prefetches[owner]

"""Fronts and workers, as they are simulated.

Fronts decode, each one click at a time with both its cores, as was measured. Workers encode one image each, for all
fronts: images that somebody waits for, then those encoded ahead, then those of a batch, as in
:mod:`lib.sam.device_queue`. What is encoded ahead or for a batch is stopped for a click, and begins anew later.

What is left out: evictions from the caches, decodes of more than one object, and what a front does beside clicks and
reading series, for which it has two more cores.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import simpy

from lib.sam.device_queue import MAX_OWNERS
from scaling.costs import Costs

RETRY_S = 5.0
"""After which a viewer that was answered 429 asks again."""
RESTART_S = 10.0
"""From a worker's kill until another is there instead; measured, see docs/scaling.md."""
MAX_QUEUE = 16
"""Segmentations that one front works on or lets wait; one more is answered 429."""

READERS = 2
"""Cores of a front that read series, each one at a time."""

Events = Generator[Any, Any, Any]


class Kind(IntEnum):
    """What an encode is for, the most urgent first."""

    CLICK = 0
    AHEAD = 1
    BATCH = 2


@dataclass(eq=False)
class Job:
    """An encode.

    Args:
        kind: What it is for; becomes ``CLICK`` once somebody waits for it.
        seconds: That a worker takes.
        source: Where it waits, and is put back as the first if it is stopped.
        done: Happens at its end.
        link: The network of the front that asked, if that is modelled.
        key: The user and the slice.
        worker: The process that does it, once one does.
    """

    kind: Kind
    seconds: float
    source: deque[Any]
    done: simpy.Event
    link: simpy.Resource | None = None
    key: Any = None
    worker: Any = None


class Pool:
    """The workers, and what waits for them.

    Args:
        env: The simulation.
        count: Number of workers.
        stop: Returns how many seconds an encode takes to end once it is to stop.
        transfer: Seconds that an image and its embedding occupy a front's network.
        batch: Returns the next encode of an endless batch; None: there is none.
    """

    def __init__(
        self,
        env: simpy.Environment,
        count: int,
        stop: Callable[[], float],
        transfer: float = 0.0,
        batch: Callable[[Pool], Job] | None = None,
    ) -> None:
        self.env, self._stop, self._transfer, self._batch = env, stop, transfer, batch
        self.clicks: deque[Job] = deque()
        self.batch_waiting: deque[Job] = deque()
        self.fronts: list[Front] = []
        self.running: dict[simpy.Process, Job] = {}
        self.done: Counter[Kind] = Counter()
        self.stopped: Counter[Kind] = Counter()
        self.busy_s = 0.0
        self._stopping = 0
        self._idle: deque[simpy.Event] = deque()
        for _ in range(count):
            env.process(self._work())

    def click(self, job: Job) -> None:
        """Ask for an encode that somebody waits for; the least urgent one is stopped if no worker is free."""
        self.clicks.append(job)
        if self._idle:
            self.wake(1)
        elif self._stopping < len(self.clicks):
            victim = max(self.running.items(), key=lambda one: one[1].kind, default=None)
            if victim is not None and victim[1].kind is not Kind.CLICK:
                self.end(victim[0])

    def end(self, worker: simpy.Process, cause: str = "stop") -> None:
        """Stop what a worker does."""
        del self.running[worker]
        self._stopping += cause == "stop"
        worker.interrupt(cause)

    def wake(self, count: int) -> None:
        """Have as many idle workers look for work."""
        for _ in range(min(count, len(self._idle))):
            self._idle.popleft().succeed()

    def _next(self) -> Job | None:
        if self.clicks:
            return self.clicks.popleft()
        for front in self.fronts:
            if (job := front.next_ahead()) is not None:
                self.fronts.remove(front)
                self.fronts.append(front)  # another one's turn is next
                return job
        if self.batch_waiting:
            return self.batch_waiting.popleft()
        return self._batch(self) if self._batch else None

    def _work(self) -> Events:
        while True:
            job = self._next()
            if job is None:
                idle = self.env.event()
                self._idle.append(idle)
                yield idle
                continue
            process = self.env.active_process
            assert process is not None
            job.worker, began = process, self.env.now
            self.running[process] = job
            try:
                yield self.env.timeout(job.seconds)
                if job.link is not None:
                    with job.link.request() as turn:
                        yield turn
                        yield self.env.timeout(self._transfer)
            except simpy.Interrupt as why:
                job.source.appendleft(job)
                self.stopped[job.kind] += 1
                self.wake(1)  # of a worker that was killed another one takes it
                yield self.env.timeout(self._stop() if why.cause == "stop" else RESTART_S)
                self._stopping -= why.cause == "stop"
            else:
                del self.running[process]
                self.done[job.kind] += 1
                job.done.succeed()
            self.busy_s += self.env.now - began

    def kills(self, every_s: float, random: np.random.Generator) -> Events:
        """A process that kills a working worker after times of this mean; its job is given to another one."""
        while True:
            yield self.env.timeout(random.exponential(every_s))
            if self.running:
                self.end(list(self.running)[random.integers(len(self.running))], "kill")


class Front:
    """A server process: its queue of clicks, and what it has encoded ahead for its users.

    Args:
        pool: The workers.
        costs: Of the model.
        ahead: Slices encoded ahead for each user.
    """

    def __init__(self, pool: Pool, costs: Costs, ahead: int) -> None:
        self.pool, self.env, self.costs, self.slices = pool, pool.env, costs, ahead
        self.line = simpy.Resource(self.env)
        self.link = simpy.Resource(self.env)
        self.reader = simpy.Resource(self.env, READERS)
        self.lists: OrderedDict[int, deque[int | Job]] = OrderedDict()  # slices, and encodes that were stopped
        self.begun: dict[int, list[Job]] = {}  # of each user's present list
        self.known: dict[int, set[int]] = {}  # encoded slices of each user's series
        self.inside = self.attended = self.refused = 0
        self.busy_s = 0.0
        pool.fronts.append(self)

    def next_ahead(self) -> Job | None:
        """Take the next slice of the newest user; none while a click is decoded."""
        if self.attended:
            return None
        for user, waiting in reversed(self.lists.items()):
            while waiting:
                job = waiting.popleft()
                if not isinstance(job, Job):
                    job = self._job(Kind.AHEAD, user, job, waiting)
                    self.begun[user].append(job)
                if job.key[1] not in self.known[user]:
                    return job
        return None

    def _job(self, kind: Kind, user: int, k: int, source: deque[Any]) -> Job:
        known = self.known[user]
        job = Job(kind, self.costs.encode_s + self.costs.way_s, source, self.env.event(), self.link, (user, k))
        assert job.done.callbacks is not None
        job.done.callbacks.append(lambda _: known.add(k))
        return job

    def _running(self, user: int) -> Iterator[Job]:
        """What workers encode for a user's list now."""
        return (job for job in self.begun.get(user, ()) if self.pool.running.get(job.worker) is job)

    def encode_ahead(self, user: int, order: list[int]) -> None:
        """Replace a user's list of slices to encode ahead; what runs and is neither listed nor awaited is stopped."""
        kept = []
        for job in list(self._running(user)):
            if job.key[1] in order:
                kept.append(job)
            elif job.kind is Kind.AHEAD:
                self.pool.end(job.worker)
        self.lists.pop(user, None)
        left = self.known[user] | {job.key[1] for job in kept}
        self.lists[user], self.begun[user] = deque(k for k in order if k not in left), kept
        for job in kept:
            if job.kind is Kind.AHEAD:
                job.source = self.lists[user]
        while len(self.lists) > MAX_OWNERS:
            self.lists.popitem(last=False)
        self.pool.wake(len(self.lists[user]))

    def read(self) -> Events:
        """Read a series that the archive has sent."""
        with self.reader.request() as turn:
            yield turn
            yield self.env.timeout(self.costs.read_s)

    def click(self, user: int, k: int) -> Events:
        """A click on a slice; returns whether its embedding was there or on its way."""
        while self.inside >= MAX_QUEUE:
            self.refused += 1
            yield self.env.timeout(RETRY_S)
        self.inside += 1
        was_known = k in self.known[user]
        if not was_known:
            yield self._awaited(user, k).done
        self.attended += 1
        with self.line.request() as turn:
            yield turn
            yield self.env.timeout(self.costs.click_s)
            self.busy_s += self.costs.click_s
        self.attended -= 1
        if not self.attended:
            self.pool.wake(sum(map(len, self.lists.values())))
        yield self.env.timeout(self.costs.click_delay_s)
        self.inside -= 1
        return was_known

    def _awaited(self, user: int, k: int) -> Job:
        """The encode of a slice that somebody waits for: the one that runs already, or a new one."""
        for job in self._running(user):
            if job.key == (user, k):
                job.kind, job.source = Kind.CLICK, self.pool.clicks
                return job
        job = self._job(Kind.CLICK, user, k, self.pool.clicks)
        self.pool.click(job)
        return job

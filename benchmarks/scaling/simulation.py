"""Annotators at fronts and workers, simulated by what ``costs.json`` says; the same seed gives the same figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
import simpy

from lib.infers.prefetch import nearest_first
from scaling.costs import Costs
from scaling.stations import Events, Front, Job, Kind, Pool


@dataclass(frozen=True)
class Habits:
    """What annotators do: assumed, see docs/scaling.md.

    Args:
        slices: Of a series.
        visited: Slices that are clicked on in a series.
        refining: Mean of the further clicks on a slice, Poisson.
        think_s: Median of the pause before a click, log-normal.
        think_sigma: Its sigma.
        near: Share of the moves that go at most 5 slices on; all others go anywhere.
        between_s: Mean of the pause between two series, exponential.
    """

    slices: int = 300
    visited: int = 10
    refining: float = 3.0
    think_s: float = 2.4
    think_sigma: float = 0.7
    near: float = 0.8
    between_s: float = 20.0


@dataclass(frozen=True)
class Setup:
    """What is simulated.

    Args:
        annotators: At work at the same time.
        workers: Of one core each.
        fronts: Of four cores each: two for clicks, two for reading series.
        batch: Whether a batch takes what the clicks leave.
        precomputed: Whether all slices were encoded before anybody came.
        ahead: Slices encoded ahead.
        link_bytes: Bytes a second of each front's network.
        archive_streams: Series that the archive sends at the same time.
        stream_bytes: Bytes a second of each.
        kill_every_s: Mean seconds between kills of a worker; 0: none.
        seconds: That are measured, after ``warm_up``, in which the annotators come one by one.
        seed: Of all random numbers.
    """

    annotators: int
    workers: int
    fronts: int
    batch: bool = False
    precomputed: bool = False
    ahead: int = 16
    link_bytes: float = 1.25e9
    archive_streams: int = 10
    stream_bytes: float = 1.25e8
    kill_every_s: float = 0.0
    seconds: float = 300.0
    warm_up: float = 200.0
    seed: int = 0
    habits: Habits = field(default_factory=Habits)


@dataclass
class Outcome:
    """Seconds of each first prompt on a slice, further click and opening of a series, and how busy all was."""

    first: list[float] = field(default_factory=list)
    further: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    ahead_hits: int = 0
    refused: int = 0
    worker_load: float = 0.0
    front_load: float = 0.0
    archive_load: float = 0.0
    encodes: dict[str, float] = field(default_factory=dict)

    def quantile(self, name: str, share: float) -> float:
        """Of ``first``, ``further`` or ``opened``, in seconds; 0 without any."""
        values = getattr(self, name)
        return float(np.quantile(values, share)) if values else 0.0


def simulate(costs: Costs, setup: Setup) -> Outcome:
    """Run it."""
    env, outcome, random = simpy.Environment(), Outcome(), np.random.default_rng([setup.seed, 0])

    def image(pool: Pool) -> Job:
        return Job(Kind.BATCH, costs.encode_s + costs.way_s, pool.batch_waiting, env.event())

    pool = Pool(
        env,
        setup.workers,
        lambda: float(random.uniform(0, costs.stop_s)),
        costs.wire_bytes / setup.link_bytes,
        image if setup.batch else None,
    )
    fronts = [Front(pool, costs, setup.ahead) for _ in range(setup.fronts)]
    archive, sending = simpy.Resource(env, setup.archive_streams), [0.0]
    if setup.kill_every_s:
        env.process(pool.kills(setup.kill_every_s, np.random.default_rng([setup.seed, 1])))

    def fetch() -> Events:
        with archive.request() as turn:
            yield turn
            seconds = costs.series_bytes / setup.stream_bytes
            yield env.timeout(seconds)
            sending[0] += seconds

    for user in range(setup.annotators):
        numbers = np.random.default_rng([setup.seed, 2, user])
        env.process(_annotator(env, user, fronts[user % len(fronts)], setup, fetch, numbers, outcome))
    env.run(setup.warm_up)
    done, busy, sent = pool.done.copy(), pool.busy_s, sending[0]
    line, refused = sum(front.busy_s for front in fronts), sum(front.refused for front in fronts)
    for values in (outcome.first, outcome.further, outcome.opened):
        values.clear()
    outcome.ahead_hits = 0
    env.run(setup.warm_up + setup.seconds)
    outcome.refused = sum(front.refused for front in fronts) - refused
    outcome.worker_load = min(
        1.0, (pool.busy_s - busy) / setup.seconds / setup.workers
    )  # a long encode counts at its end
    outcome.front_load = (sum(front.busy_s for front in fronts) - line) / setup.seconds / setup.fronts
    outcome.archive_load = (sending[0] - sent) / setup.seconds / setup.archive_streams
    outcome.encodes = {kind.name.lower(): (pool.done[kind] - done[kind]) / setup.seconds for kind in Kind}
    return outcome


def _annotator(
    env: simpy.Environment,
    user: int,
    front: Front,
    setup: Setup,
    fetch: Callable[[], Events],
    random: np.random.Generator,
    outcome: Outcome,
) -> Events:
    """One series after the other: open it, click on slices, refine each."""
    habits = setup.habits

    def think() -> simpy.Event:
        return env.timeout(habits.think_s * float(random.lognormal(0, habits.think_sigma)))

    yield env.timeout(float(random.uniform(0, setup.warm_up)))
    for _ in repeat(None):
        front.known[user], asked = set(range(habits.slices if setup.precomputed else 0)), env.now
        yield from fetch()
        yield from front.read()
        outcome.opened.append(env.now - asked)
        middle, direction = habits.slices // 2, 0
        if front.slices:
            front.encode_ahead(user, [middle, *nearest_first(middle, habits.slices, front.slices - 1)])
        k = int(random.integers(habits.slices))
        for number in range(habits.visited):
            if number:
                step = int(random.integers(1, 6 if random.random() < habits.near else habits.slices))
                direction, k = (1 if (k + step) < habits.slices else -1), (k + step) % habits.slices
            for again in range(1 + int(random.poisson(habits.refining))):
                yield think()
                asked = env.now
                was_known = yield from front.click(user, k)
                (outcome.further if again else outcome.first).append(env.now - asked)
                outcome.ahead_hits += bool(was_known and not again)
                if front.slices:
                    front.encode_ahead(user, nearest_first(k, habits.slices, front.slices, direction))
        yield env.timeout(float(random.exponential(habits.between_s)))

"""The simulation beside what is known: queueing theory, and loops of clients that were measured on a real server."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import simpy

from scaling.costs import Costs
from scaling.stations import Events, Front, Job, Kind, Pool


def erlang_c_wait(per_s: float, service_s: float, workers: int) -> float:
    """Mean wait in seconds where requests come at random and take exponential times (M/M/c; Erlang 1917)."""
    load = per_s * service_s
    waiting = load**workers / math.factorial(workers) * workers / (workers - load)
    idle = sum(load**n / math.factorial(n) for n in range(workers))
    return waiting / (idle + waiting) * service_s / (workers - load)


def pollaczek_wait(per_s: float, service_s: float) -> float:
    """Mean wait in seconds at one worker of constant time (M/D/1; Pollaczek and Khinchine)."""
    load = per_s * service_s
    return load * service_s / (2 * (1 - load))


def mean_wait(per_s: float, workers: int, seconds: Callable[[np.random.Generator], float], count: int) -> float:
    """Mean wait for a worker of so many simulated clicks that come at random."""
    env, random = simpy.Environment(), np.random.default_rng(1)
    pool = Pool(env, workers, lambda: 0.0)
    waits: list[float] = []

    def ask(job: Job) -> Events:
        asked = env.now
        pool.click(job)
        yield job.done
        waits.append(env.now - asked - job.seconds)

    def arrivals() -> Events:
        for _ in range(count):
            yield env.timeout(random.exponential(1 / per_s))
            env.process(ask(Job(Kind.CLICK, seconds(random), pool.clicks, env.event())))

    env.process(arrivals())
    env.run()
    return float(np.mean(waits))


def loop(
    clients: int, think_s: float, env: simpy.Environment, request: Callable[[], Events], end: float = 2000.0
) -> dict[str, float]:
    """Clients with exponential pauses: requests a second, and quantiles of what each took, in seconds."""
    taken: list[float] = []

    def client(number: int) -> Events:
        random = np.random.default_rng([2, number])
        while True:
            yield env.timeout(random.exponential(think_s))
            asked = env.now
            yield from request()
            taken.append(env.now - asked)

    for number in range(clients):
        env.process(client(number))
    env.run(end)
    p50, p90, p99 = np.quantile(taken, [0.5, 0.9, 0.99])
    return {"per_s": len(taken) / end, "p50_s": float(p50), "p90_s": float(p90), "p99_s": float(p99)}


def encode_loop(measured: dict[str, Any]) -> dict[str, float]:
    """Simulates ``closed_loop`` of ``costs.json``: clients who encode ever new images on one engine."""
    env = simpy.Environment()
    pool = Pool(env, 1, lambda: 0.0)

    def request() -> Events:
        job = Job(Kind.CLICK, measured["encode_s"], deque(), env.event())
        pool.click(job)
        yield job.done

    return loop(measured["clients"], measured["think_s"], env, request)


def click_loop(costs: Costs, measured: dict[str, Any]) -> dict[str, float]:
    """Simulates ``front.busy`` or ``paced`` of ``costs.json``: clients who click on an encoded slice of a server."""
    env = simpy.Environment()
    front = Front(Pool(env, 1, lambda: 0.0), costs, 0)
    front.known[0] = {0}
    return loop(measured["clients"], measured["think_s"], env, lambda: front.click(0, 0))

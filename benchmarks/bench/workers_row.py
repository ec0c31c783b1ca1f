"""The row of encoding by workers of Ray Serve, where Ray is installed, beside the same process encoding alone."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import psutil

from bench.figures import Sample, milliseconds, pair_ratios, seconds
from bench.row import Measurement, NotAvailableError, Row
from bench.workplace import Workplace, pictures
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.runtimes.remote import RemoteEncoder, Workers, WorkersUnavailableError
from lib.workers.place import WorkersPlace
from lib.workers.ray_workers import RayWorkers

_MODEL = "sam_tiny"
_CLIENTS = 4
_RECOVERY_S = 120.0


def workers_of_ray(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    if importlib.util.find_spec("ray") is None:
        raise NotAvailableError("Ray is not installed: scripts/setup --ray")
    cores = len(os.sched_getaffinity(0))
    alone = _predictor(None)
    with _workers(1, cores) as one:
        remote = _predictor(one)
        ours, peer = _in_turns(remote, alone, workplace.times(100, 10))
        there = _refused(one, remote, workplace.times(50, 10))
        size = remote.encode(next(pictures(1, seed=1))).nbytes
    with _workers(2, 1) as two:
        both, single, local = _throughput(two, alone, workplace.times(5, 2), workplace.times(40, 8))
        recovery = [_recovery(two) for _ in range(workplace.times(3, 1))]
    overhead = statistics.median(mine - its for mine, its in zip(ours, peer, strict=True))
    return Measurement(
        ours=[
            Sample.of("an encode by a worker with all cores", ours, "ms"),
            Sample.of("two workers of one core each, images a second", both, "1/s"),
            Sample.of("from a worker's kill until two are there", recovery, "s"),
        ],
        peer=[
            Sample.of("an encode by the process itself", peer, "ms"),
            Sample.of("one of these workers at a time, images a second", single, "1/s"),
            Sample.of("the process itself with all cores, images a second", local, "1/s"),
        ],
        ratio=pair_ratios(ours, peer),
        table={
            "a worker takes longer by": f"{overhead:.1f} ms",
            "of it the call and the way there": f"{there:.1f} ms",
            "an embedding that comes back": f"{size / 1e6:.1f} MB, the other {overhead - there:.1f} ms",
            "throughput of two workers": f"{pair_ratios(both, single).median:.2f} x one",
            "and": f"{pair_ratios(both, local).median:.2f} x the process itself",
        },
        notes=[f"{_MODEL}, 512x512, {cores} cores, {_CLIENTS} clients for the throughput"],
    )


def _predictor(workers: Workers | None) -> Predictor:
    return Engine([MODELS[_MODEL]], MODEL_FOLDER, device="cpu", workers=workers).predictor(_MODEL)


@contextmanager
def _workers(count: int, cores: int) -> Iterator[RayWorkers]:
    workers = RayWorkers(WorkersPlace(here=(count, count)), [MODELS[_MODEL]], MODEL_FOLDER, cores=cores)
    try:
        yield workers
    finally:
        workers.close()


def _in_turns(remote: Predictor, alone: Predictor, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each in each round, after three rounds that do not count."""
    ours, peer = [], []
    for image in pictures(rounds + 3, seed=16):
        ours.append(milliseconds(lambda image=image: remote.encode(image)))  # type: ignore[misc]
        peer.append(milliseconds(lambda image=image: alone.encode(image)))  # type: ignore[misc]
    return ours[3:], peer[3:]


def _refused(workers: RayWorkers, predictor: Predictor, rounds: int) -> float:
    """Milliseconds of a call with an image that is refused at once: all but the encode and the embedding."""
    other = RemoteEncoder(workers, _MODEL, "other weights", predictor.runtime.key)
    image = next(pictures(1, seed=17))

    def call() -> None:
        with suppress(WorkersUnavailableError):
            other.encode(image)

    return statistics.median(milliseconds(call) for _ in range(rounds))


def _throughput(
    workers: RayWorkers, alone: Predictor, rounds: int, images: int
) -> tuple[list[float], list[float], list[float]]:
    """Images a second by all workers at once, by one at a time, and by this process, in turns."""
    remote = _predictor(workers)
    found: tuple[list[float], list[float], list[float]] = [], [], []
    for number in range(rounds + 1):
        for place, (predictor, clients) in enumerate([(remote, _CLIENTS), (remote, 1), (alone, _CLIENTS)]):
            batch = list(pictures(images, seed=1000 * number + 100 * place + 18))
            rate = images / seconds(lambda: _encode_all(predictor, batch, clients))  # noqa: B023 - called at once
            if number:
                found[place].append(rate)
    return found


def _encode_all(predictor: Predictor, batch: Sequence[np.ndarray], clients: int) -> None:
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(predictor.encode, batch))


def _recovery(workers: RayWorkers) -> float:
    """Seconds from the kill of a worker until another is there instead."""
    before = _processes()
    victim = min(before)
    began = time.monotonic()
    os.kill(victim, 9)
    while not (victim not in _processes() and len(_processes()) == len(before) and workers.running == len(before)):
        if time.monotonic() - began > _RECOVERY_S:
            raise TimeoutError(f"no other worker came within {_RECOVERY_S:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def _processes() -> set[int]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ServeReplica:sam-encoders" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


ROWS = [
    Row(
        "workers",
        "encoding by workers of Ray Serve: overhead, throughput, recovery",
        "the same process encoding alone",
        [],
        workers_of_ray,
    )
]

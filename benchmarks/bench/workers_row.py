"""The rows of encoding by workers of Ray Serve, where Ray is installed, beside the same process encoding alone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from bench.figures import Sample, milliseconds, pair_ratios, percentile, seconds
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.server import Client
from bench.workplace import Volume, Workplace, pictures
from lib.sam.engine import Engine
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
    large = workplace.large_model
    folder = workplace.model_folder(_MODEL, large)
    alone = _predictor(_MODEL, folder)
    with _workers(1, cores, _MODEL, folder) as one:
        remote = _predictor(_MODEL, folder, one)
        ours, peer = _in_turns(remote, alone, workplace.times(100, 10))
        there = _refused(one, remote, workplace.times(50, 10))
        size = remote.encode(next(pictures(1, seed=1))).nbytes
    _predictor(large, folder)  # converts it, for the workers
    with _workers(2, 1, large, folder) as two:
        both, single = _throughput(two, large, folder, workplace.times(3, 2), workplace.times(4, 8))
        recovery = [_recovery(two) for _ in range(workplace.times(3, 1))]
    overhead = statistics.median(mine - its for mine, its in zip(ours, peer, strict=True))
    return Measurement(
        ours=[
            Sample.of("an encode by a worker with all cores", ours, "ms"),
            Sample.of(f"two workers of one core each, {large}, images a second", both, "1/s"),
            Sample.of("from a worker's kill until two are there", recovery, "s"),
        ],
        peer=[
            Sample.of("an encode by the process itself", peer, "ms"),
            Sample.of(f"one of these workers at a time, {large}, images a second", single, "1/s"),
        ],
        ratio=pair_ratios(ours, peer),
        values={"overhead": overhead, "throughput": pair_ratios(both, single).median},
        table={
            "a worker takes longer by": f"{overhead:.1f} ms",
            "of it the call and the way there": f"{there:.1f} ms",
            "an embedding that comes back": f"{size / 1e6:.1f} MB, the other {overhead - there:.1f} ms",
            "throughput of two workers": f"{pair_ratios(both, single).median:.2f} x one",
        },
        notes=[f"{_MODEL}, 512x512, {cores} cores", *workplace.large_model_notes],
    )


def clicks_with_workers(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    if importlib.util.find_spec("ray") is None:
        raise NotAvailableError("Ray is not installed: scripts/setup --ray")
    new_slices = workplace.times(50, 8)
    seen = workplace.volume("clicked", 20 + 2 * new_slices)
    studies = workplace.folder / "batch"
    studies.mkdir()
    count = workplace.times(500, 40)
    for number, picture in enumerate(pictures(count, seed=23)):
        Image.fromarray(picture[::4, ::4, 0]).save(studies / f"batch-{number:03}.png")
    shutil.copy(seen.path, studies)
    rounds = workplace.times(200, 20)
    conf = ("ahead", "0")
    with workplace.server(_MODEL, conf=conf) as alone, alone.client() as client:
        peer = _warm_clicks(client, seen, rounds)
    with (
        workplace.server(_MODEL, conf=(*conf, "workers", "ray:2"), studies=studies) as server,
        server.client() as client,
    ):
        ours = _warm_clicks(client, seen, rounds)
        encodes = _encodes(client)
        _warm_clicks(client, seen, rounds)
        needed = _encodes(client) - encodes
        first = _first_clicks(client, seen, range(20, 20 + new_slices))
        client.post(f"/batch/infer/{_MODEL}", {"params": {"prompts": "automatic", "label_tag": "batch"}})
        meanwhile = _warm_clicks(client, seen, rounds)
        new = _first_clicks(client, seen, range(20 + new_slices, seen.slices))
        done = len(json.loads(client.get("/batch/infer").content)["results"])
        client.delete("/batch/infer")
    warm = percentile(meanwhile, 99) / percentile(ours, 99)
    return Measurement(
        ours=[
            Sample.of("a click on an encoded slice, with workers", ours, "ms"),
            Sample.of("the same during a batch", meanwhile, "ms"),
            Sample.of("the first click on a slice during a batch", new, "ms"),
        ],
        peer=[
            Sample.of("a click on an encoded slice, without workers", peer, "ms"),
            Sample.of("the first click on a slice, with workers, no batch", first, "ms"),
        ],
        ratio=pair_ratios(ours, peer),
        values={"click": pair_ratios(ours, peer).median, "batch": warm, "affinity": 100 * (1 - needed / rounds)},
        table={
            "clicks that needed no worker": f"{100 * (1 - needed / rounds):.1f} %",
            "p99 of a click during a batch": f"{warm:.2f} x without",
            "p50 of a first click during a batch": f"{statistics.median(new) / statistics.median(first):.2f} x without",
            "batch": f"{done} of {count} images while it was measured",
        },
        notes=[f"{_MODEL}, two workers of one core, batch of {count} images, every object of each"],
    )


def _warm_clicks(client: Client, volume: Volume, rounds: int) -> list[float]:
    """Milliseconds of clicks on one encoded slice."""
    client.click(_MODEL, volume.id, [[250, 250, 10]])
    return [client.click(_MODEL, volume.id, [[200 + n % 90, 250, 10]]).milliseconds for n in range(rounds)]


def _first_clicks(client: Client, volume: Volume, slices: range) -> list[float]:
    """Milliseconds of the first click on each of these slices."""
    return [client.click(_MODEL, volume.id, [[250, 250, k]]).milliseconds for k in slices]


def _encodes(client: Client) -> float:
    """How many images workers have encoded."""
    text = client.get("/metrics").content.decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("sam_worker_encodes_total"))


def _predictor(model: str, folder: Path, workers: Workers | None = None) -> Predictor:
    return Engine([MODELS[model]], folder, device="cpu", workers=workers).predictor(model)


@contextmanager
def _workers(count: int, cores: int, model: str, folder: Path) -> Iterator[RayWorkers]:
    workers = RayWorkers(WorkersPlace(here=(count, count)), [MODELS[model]], folder, cores=cores)
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
    workers: RayWorkers, model: str, folder: Path, rounds: int, images: int
) -> tuple[list[float], list[float]]:
    """Images a second by all workers at once, and by one at a time, in turns."""
    remote = _predictor(model, folder, workers)
    found: tuple[list[float], list[float]] = [], []
    for number in range(rounds + 1):
        for place, clients in enumerate((_CLIENTS, 1)):
            batch = list(pictures(images, seed=1000 * number + 100 * place + 18))
            rate = images / seconds(lambda: _encode_all(remote, batch, clients))  # noqa: B023 - called at once
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
        "encoding by workers of Ray Serve: overhead, throughput of two, recovery",
        "the same process encoding alone; one worker",
        [Bar("overhead", 15, "ms"), Bar("throughput", 1.8, "x", at_least=True)],
        workers_of_ray,
    ),
    Row(
        "workers-clicks",
        "clicks on a server with two workers, also while it works on a batch",
        "the same server without workers; without a batch",
        [Bar("click", 1.1, "x"), Bar("batch", 2, "x"), Bar("affinity", 95, "%", at_least=True)],
        clicks_with_workers,
    ),
]

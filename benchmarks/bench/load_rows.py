"""Rows of a server that many use at once, or that is used for long."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import nibabel
import numpy as np

from bench.figures import Sample, pair_ratios, percentile
from bench.mixed_requests import Outcome, Request, many_images, requests_of, send
from bench.row import Bar, Measurement, Row
from bench.server import Client, Server, ServerError, png
from bench.workplace import Volume, Workplace, pictures, torso

_PAUSE_S = 0.02
LIGHT = ("/health_check/", "/info/")
"""Routes that are to be answered at once whatever the server does."""


def click_on_ever_new(url: str, model: str, volume: Volume, clients: int) -> None:
    """Clicks on new slices and uploads of new images, one after the other in each client, until the process ends."""

    def click(number: int) -> None:
        with Client(url) as client:
            for k in range(number, volume.slices, clients):
                client.click(model, volume.id, [[250, 250, k]])

    def upload(number: int) -> None:
        with Client(url) as client:
            for image in pictures(1000, seed=1000 + number):
                client.segment(png(image), {"model": model, "positive_points": [{"x": 250, "y": 250}]})

    def safely(work: Callable[[int], None], number: int) -> None:
        with suppress(httpx.TransportError, ServerError):  # the server is stopped at the end
            work(number)

    threads = [threading.Thread(target=safely, args=(click, number)) for number in range(clients)]
    threads += [threading.Thread(target=safely, args=(upload, number)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def load(server: Server, model: str, volume: Volume, clients: int) -> Iterator[None]:
    """Those clients as a process of its own, ended at the end."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=click_on_ever_new, args=(server.url, model, volume, clients), daemon=True)
    process.start()
    try:
        time.sleep(6)  # until they are at work
        yield
        if not process.is_alive():
            raise ServerError("the clients that were to keep the server busy ended")
    finally:
        process.terminate()
        process.join()


def probe(server: Server, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each light request in that time, by route."""
    taken: dict[str, list[float]] = {route: [] for route in LIGHT}
    end = time.monotonic() + seconds
    with server.client() as client:
        while time.monotonic() < end:
            for route in LIGHT:
                taken[route].append(client.get(route).milliseconds)
            time.sleep(_PAUSE_S)
    return taken


def light_routes(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    model = workplace.large_model
    volume = workplace.volume("deep", 200)
    with workplace.server(model) as server:
        probe(server, 1)
        idle = probe(server, workplace.times(10, 3))
        with load(server, model, volume, clients=2):
            busy = probe(server, workplace.times(30, 5))
    ours = [Sample.of(f"{route} during encodes, {model}", busy[route]) for route in LIGHT]
    peer = [Sample.of(f"{route} idle", idle[route]) for route in LIGHT]
    p99 = {route: (percentile(busy[route], 99), percentile(idle[route], 99)) for route in LIGHT}
    return Measurement(
        ours=ours,
        peer=peer,
        ratio=Sample.of("p99 busy / idle, of each route", [ours / idle for ours, idle in p99.values()], "x"),
        values={"p99": max(busy for busy, _ in p99.values())},
        table={route: f"p99 {busy:.1f} ms busy, {idle:.1f} ms idle" for route, (busy, idle) in p99.items()},
        notes=workplace.large_model_notes,
    )


def concurrent(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    clients, seconds = 16, workplace.times(120, 8)
    images = many_images(workplace)
    conf = ["results_max_mb", "300"]
    with workplace.server("sam_tiny", conf=conf) as server:
        end = time.monotonic() + seconds
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            sent = list(pool.map(lambda number: _until(server, requests_of(number, images), end), range(clients)))
        together_s = time.perf_counter() - started
    with workplace.server("sam_tiny", conf=conf) as server:
        started = time.perf_counter()
        alone = _one_after_the_other(server, [[request for request, _ in client] for client in sent])
        alone_s = time.perf_counter() - started
    count = sum(map(len, sent))
    pairs = [
        (request, together, single)
        for client, singles in zip(sent, alone, strict=True)
        for (request, together), single in zip(client, singles, strict=True)
    ]
    errors = [outcome.error for _, *both in pairs for outcome in both if outcome.error]
    others = [request for request, a, b in pairs if not a.error and not b.error and not a.is_same(b)]
    kinds = {kind: sum(request.kind == kind for request, *_ in pairs) for kind in sorted({r.kind for r, *_ in pairs})}
    together, single = count / together_s, count / alone_s
    return Measurement(
        ours=[Sample.of(f"{clients} clients at once", [together], "/s")],
        peer=[Sample.of("the same requests one after the other on a fresh server", [single], "/s")],
        ratio=Sample.of("throughput at once / one after the other", [together / single], "x"),
        values={"throughput": together / single, "other answers": float(len(others)), "errors": float(len(errors))},
        table={"requests": str(count), **{f"of them {kind}": str(number) for kind, number in kinds.items()}},
        notes=[*dict.fromkeys(errors[:3]), *(f"another answer: {request}"[:200] for request in others[:3])],
    )


def _until(server: Server, requests: Iterator[Request], end: float) -> list[tuple[Request, Outcome]]:
    """One client's requests, one after the other, until the time is over."""
    done = []
    with server.client() as client:
        for request in requests:
            if time.monotonic() >= end:
                break
            done.append((request, send(client, request)))
    return done


def _one_after_the_other(server: Server, requests: Sequence[Sequence[Request]]) -> list[list[Outcome]]:
    """All clients' requests, the clients in turns, never two at a time; each client's in its own order."""
    outcomes: list[list[Outcome]] = [[] for _ in requests]
    with server.client() as client:
        for turn in itertools.zip_longest(*requests):
            for number, request in enumerate(turn):
                if request is not None:
                    outcomes[number].append(send(client, request))
    return outcomes


def soak(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    images, passes = workplace.times(200, 30), workplace.times(10, 4)
    studies = workplace.folder / "soak-studies"
    studies.mkdir()
    for number, frame in enumerate(torso(images, seed=12)[::2]):
        nibabel.Nifti1Image(frame.T[..., None], np.eye(4)).to_filename(studies / f"one-{2 * number}.nii.gz")
    uploads = {2 * number + 1: png(image) for number, image in enumerate(pictures(images // 2, seed=12))}
    memory, files, times = [], [], []
    with workplace.server("sam_tiny", conf=["results_max_mb", "50"], studies=studies) as server:
        before = set(server.temporary.rglob("*"))  # what the start itself left there
        for number in range(passes):
            times += _every_image_once(server, images, uploads, number)
            server.wait_until_idle()
            time.sleep(1)
            memory.append(server.resident_bytes() / 2**20)
            files.append(server.open_files())
        left = [path for path in set(server.temporary.rglob("*")) - before if path.is_file()]
        pending = [path for path in server.results.iterdir() if path.name.startswith(".") and path.name != ".lock"]
        results_mb = sum(path.stat().st_size for path in server.results.rglob("*") if path.is_file()) / 1e6
    growth = 100 * (memory[-1] / memory[0] - 1)
    return Measurement(
        ours=[
            Sample.of("resident memory after each pass over the images", memory, "MiB"),
            Sample.of("open files, likewise", files, ""),
        ],
        peer=[Sample.of("the same server after its first pass", memory[:1], "MiB")],
        ratio=pair_ratios(memory[-1:], memory[:1], "memory at the end / after the first pass"),
        values={
            "memory growth": growth,
            "open files more": float(files[-1] - files[0]),
            "files left": float(len(left) + len(pending)),
        },
        table={
            "requests": f"{len(times)} over {images} images",
            "memory after each pass": " ".join(f"{value:.0f}" for value in memory) + " MiB",
            "a request": f"p50 {percentile(times, 50):.0f} ms, p99 {percentile(times, 99):.0f} ms",
            "results on disk at the end": f"{results_mb:.0f} MB",
        },
        notes=[f"left: {path.name}" for path in [*left, *pending][:5]],
    )


def _every_image_once(server: Server, images: int, uploads: dict[int, bytes], number: int) -> list[float]:
    """A request for each image, by four clients; each image is always asked for in the same way."""

    def some(first: int) -> list[float]:
        taken = []
        with server.client() as client:
            for image in range(first, images, 4):
                x, y = 200 + 7 * number, 220 + image % 60
                if image in uploads:
                    sam_input = {"positive_points": [{"x": x, "y": y}]}
                    taken.append(client.segment(uploads[image], sam_input).milliseconds)
                else:
                    answer = client.click("sam_tiny", f"one-{image}", [[x, y, 0]], client_id="soak")
                    taken.append(answer.milliseconds)
        return taken

    with ThreadPoolExecutor(4) as pool:
        return [value for part in pool.map(some, range(4)) for value in part]


ROWS = [
    Row(
        "light-routes",
        "GET /health_check/ and /info/ while images are encoded without a pause, sam_vit_b",
        "the same routes of the idle server",
        [Bar("p99", 50, "ms")],
        light_routes,
    ),
    Row(
        "concurrent",
        "16 clients, 4 images, mixed prompts, sam_tiny: the same answers as one after the other, and as many a second",
        "the same requests one after the other on a fresh server",
        [Bar("throughput", 1.3, "x", at_least=True), Bar("other answers", 0, ""), Bar("errors", 0, "")],
        concurrent,
    ),
    Row(
        "soak",
        "2,000 requests over 200 images, sam_tiny: memory, open files and files left behind",
        "the same server after the first 200 requests, one for each image",
        [Bar("memory growth", 2, "%"), Bar("open files more", 0, ""), Bar("files left", 0, "")],
        soak,
    ),
]

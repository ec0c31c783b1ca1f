"""How long ``GET /health_check/`` takes on an idle server, and while clients segment images on it without a pause.

A real server is started with ``sam_tiny``. Every upload is another image, so that each one is encoded. The clients are
a process of their own on this machine: the load that they make themselves is part of the figures. Prints p50 and p99.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "apps" / "sam_app")]

from demo import DEMO_FOLDER, running_server  # noqa: E402

PROMPTS = json.dumps({"rectangles": [{"startX": 100, "startY": 100, "width": 300, "height": 300}]})
PAUSE_S = 0.02


def png(seed: int) -> bytes:
    """A 512x512 image of noise."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (512, 512), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def upload(url: str, clients: int, stop: Event, answers: multiprocessing.Queue[list[int]]) -> None:
    """Segment images, one after the other in each client, until told to stop; answers all statuses."""
    statuses: list[int] = []

    def one_client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            image = 0
            while not stop.is_set():
                files = {"file": png(number * 100_000 + image)}
                statuses.append(
                    client.post("/segment_input_image/", files=files, data={"sam_input": PROMPTS}).status_code
                )
                image += 1

    threads = [threading.Thread(target=one_client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(statuses)


def probe(url: str, seconds: float) -> list[float]:
    """Milliseconds of each health check in that time."""
    taken = []
    end = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while time.monotonic() < end:
            started = time.perf_counter()
            client.get("/health_check/").raise_for_status()
            taken.append(1000 * (time.perf_counter() - started))
            time.sleep(PAUSE_S)
    return taken


def quantiles(taken: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return cuts[49], cuts[98]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10, help="uploading at the same time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="for each of the two (default: %(default)s)")
    arguments = parser.parse_args()

    DEMO_FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sam-health-") as folder:
        places = {"results": f"{folder}/results", "audit_log": f"{folder}/audit.jsonl"}
        (Path(folder) / "studies").mkdir()
        options = ["--studies", f"{folder}/studies", "--models", "sam_tiny"]
        options += [word for key, value in places.items() for word in ("--conf", key, value)]
        with running_server(options) as url:
            probe(url, 2)
            idle = probe(url, arguments.seconds)
            context = multiprocessing.get_context("spawn")
            stop, answers = context.Event(), context.Queue()
            clients = context.Process(target=upload, args=(url, arguments.clients, stop, answers))
            clients.start()
            time.sleep(5)  # until all of them are at work
            busy = probe(url, arguments.seconds)
            stop.set()
            statuses = answers.get(timeout=300)
            clients.join()

    (idle_50, idle_99), (busy_50, busy_99) = quantiles(idle), quantiles(busy)
    done = statuses.count(200)
    print(f"{arguments.clients} clients: {done} images segmented, {len(statuses) - done} other answers")
    print(f"{'':12s}{'checks':>8s}{'p50':>12s}{'p99':>12s}{'longest':>12s}")
    for name, taken, p50, p99 in (("idle", idle, idle_50, idle_99), ("uploads", busy, busy_50, busy_99)):
        print(f"{name:12s}{len(taken):8d}{p50:9.1f} ms{p99:9.1f} ms{max(taken):9.1f} ms")
    print(f"{'ratio':12s}{'':8s}{busy_50 / idle_50:12.1f}{busy_99 / idle_99:12.1f}")


if __name__ == "__main__":
    main()

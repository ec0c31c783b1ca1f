"""Files of kilobytes that ask for gigabytes: the server keeps within its budget, stays healthy and gives all back."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from lib.imaging.views import encode_png
from support.bombs import BOMBS
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

BUDGET_MB = 1024
QUICK = (
    "JPEG, scans",
    "DICOM, JPEG 2000",
    "DICOM, JPEG Lossless",
    "TIFF, strips",
    "PNG, texts and a profile",
    "NRRD, text",
    "PNG, that fits 1 GiB",
    "NIfTI, that fits 1 GiB",
)


def taken(server: psutil.Process) -> int:
    """Bytes of the server, its workers, and the shared memory between them."""
    total = 0
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(OSError):
            if "memfd:results" in os.readlink(descriptor):
                total += os.stat(descriptor).st_blocks * 512
    return total


@dataclass
class Watch:
    """What was seen of a server: its most bytes over idle, and how long each ``/health_check/`` took, in s."""

    most: int = 0
    health: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """In ms."""
        return float(np.percentile(self.health, share)) * 1e3


@contextmanager
def watched(server: Server) -> Iterator[Watch]:
    """Look at a server's memory and health all the time."""
    watch, over, process = Watch(), threading.Event(), psutil.Process(server.process.pid)
    idle = taken(process)

    def look() -> None:
        while not over.wait(0.02):
            watch.most = max(watch.most, taken(process) - idle)

    def ask() -> None:
        with requests.Session() as session:
            while not over.wait(0.05):
                began = time.monotonic()
                assert session.get(f"{server.url}/health_check/", timeout=60).status_code == 200
                watch.health.append(time.monotonic() - began)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(look), threads.submit(ask)]
        try:
            yield watch
        finally:
            over.set()
            for each in both:
                each.result()


_KEPT_BYTES = 512 * 2**20
"""What may stay: workers that have run, their shared memory and what allocators keep; measured are 233 to 347 MiB.
What is read of one image that fits the budget is more."""


@pytest.mark.timeout(1500)
@pytest.mark.long
@pytest.mark.parametrize("names", [pytest.param(QUICK, id="some"), pytest.param(tuple(BOMBS), id="all")])
def test_bombs_cost_no_more_than_the_budget(tmp_path: Path, names: tuple[str, ...]) -> None:
    bombs = {name: BOMBS[name]() for name in names}
    assert max(map(len, bombs.values())) < 10 * 2**20
    (tmp_path / "studies").mkdir()
    with running_server(tmp_path, "memory_mb", str(BUDGET_MB), "max_seconds", "60") as server:
        process = psutil.Process(server.process.pid)
        point = '{"positive_points": [{"x": 8, "y": 8}]}'
        pixels = np.zeros((64, 64), np.uint8)
        pixels[10:30, 10:30] = 200
        small = encode_png(pixels)
        assert server.segment(small, point).status_code == 200
        idle = taken(process)
        statuses: dict[str, tuple[int, str]] = {}

        def throw(number: int) -> None:
            for name in [*names[number:], *names[:number]]:
                answer = server.segment(bombs[name], point)
                statuses[name] = answer.status_code, answer.json().get("detail", "")

        with watched(server) as watch, ThreadPoolExecutor(3) as threads:
            list(threads.map(throw, (0, len(names) // 3, 2 * len(names) // 3)))
        for name, (status, detail) in statuses.items():
            print(f"{name:28} {len(bombs[name]):9} bytes  {status} {detail}")
        print(f"most {watch.most / 2**20:.0f} MiB over idle, budget {BUDGET_MB} MiB")
        print(f"health p50 {watch.percentile(50):.0f} ms, p99 {watch.percentile(99):.0f} ms of {len(watch.health)}")
        assert all(status in (200, 413, 415, 422, 429, 503) for status, _ in statuses.values())
        assert all(detail or status == 200 for status, detail in statuses.values())
        assert not any(re.search(r"Traceback|/tmp/", detail) for _, detail in statuses.values())
        assert watch.most <= 1.1 * BUDGET_MB * 2**20
        assert watch.percentile(99) <= 500, "on a machine of its own 50"
        assert server.segment(small, point).status_code == 200
        for _ in range(50):
            left = taken(process) - idle
            if left < _KEPT_BYTES:
                break
            time.sleep(0.2)
        print(f"left {left / 2**20:.0f} MiB")
        assert left < _KEPT_BYTES

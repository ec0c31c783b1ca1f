"""Clients that send one image after the other to a server with workers."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from support.rest import DISC
from support.server_process import Server

NAME = "DOE^JANE"


def noise(seed: int, height: int = 512, width: int = 512) -> np.ndarray:
    """An image with a bright disc, ``(H, W, 3)`` uint8."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 5) ** 2
    grey = np.random.default_rng(seed).normal(np.where(inside, 180, 70), 15).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


class Load:
    """Clients that send one new image after the other until they are told to stop."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop, self._lock = server, threading.Event(), threading.Lock()
        self.masks: dict[int, bytes] = {}
        self.unavailable = 0
        self.longest = 0.0
        self.faults: list[str] = []
        self._seeds = iter(range(1000, 1_000_000))
        self._threads = [threading.Thread(target=self._work) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                seed = next(self._seeds)
            began = time.monotonic()
            try:
                answer = segment(self._server, seed)
                self.longest = max(self.longest, time.monotonic() - began)
                if answer.status_code == 200:
                    self.masks[seed] = mask(self._server, answer)
                elif answer.status_code == 503 and "retry-after" in answer.headers:
                    self.unavailable += 1
                    time.sleep(0.2)
                else:
                    self.faults.append(f"{answer.status_code} {answer.text}")
            except Exception as error:
                self.faults.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


def segment(server: Server, seed: int):
    content = io.BytesIO()
    Image.fromarray(noise(seed, 200, 240)).save(content, "PNG")
    return server.segment(content.getvalue(), DISC, name=f"{NAME}.png")


def mask(server: Server, answer) -> bytes:
    return server.get(f"/get_segmented_image/{answer.json()['timestamp']:.6f}?view=mask").content


def running(server: Server) -> int:
    return server.get("/health_check/").json()["workers"]["running"]

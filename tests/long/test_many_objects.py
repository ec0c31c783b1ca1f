"""A request with many objects on a large image takes no more memory than one with a few."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import psutil
import pytest

from support.rest import png
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.long]

SIDE = 4096


def boxes(count: int) -> list[dict[str, int]]:
    """Side by side in rows, over the whole image."""
    rows = int(np.ceil(np.sqrt(count)))
    step = SIDE // rows
    side = step * 3 // 4
    corners = [(n % rows * step + step // 8, n // rows * step + step // 8) for n in range(count)]
    return [{"startX": x, "startY": y, "width": side, "height": side} for x, y in corners]


def growth(server: Server, image: bytes, count: int) -> float:
    """MiB that the server's memory grows by at most while it segments this many boxes, three candidates each."""
    process = Path(f"/proc/{server.process.pid}")
    before = psutil.Process(server.process.pid).memory_info().rss
    (process / "clear_refs").write_text("5")  # the kernel begins to look for the peak anew
    answer = server.segment(image, json.dumps({"rectangles": boxes(count), "multimask": True}))
    assert answer.status_code == 200, answer.text
    assert len(json.loads(answer.headers["SAM-Result"])["scores"]) == count
    [peak] = [line.split()[1] for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")]
    return (int(peak) * 1024 - before) / 2**20


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_number_of_objects(tmp_path: Path) -> None:
    rows, columns = np.ogrid[:SIDE, :SIDE]
    image = png(((rows + columns) // 8 % 256).astype(np.uint8))
    with running_server(tmp_path, "models", "sam_tiny") as server:
        growth(server, image, 1)
        few, many = growth(server, image, 8), growth(server, image, 150)
    print(f"peak over the memory before: {few:.0f} MiB for 8 objects, {many:.0f} MiB for 150")
    assert many <= few + 128

"""Several servers that share the folder of results: whichever a client asks, and whatever becomes of the others."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.rest import DISC, png
from support.server_process import Server, running_server

MODEL = ("models", "sam_tiny")
_starts = count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def second(shared: Path) -> Iterator[Server]:
    with running_server(shared / "2", *MODEL, "results", str(shared / "results"), "front", "2") as server:
        yield server


def start_first(shared: Path):
    return running_server(shared / f"1-{next(_starts)}", *MODEL, "results", str(shared / "results"), "front", "1")


def test_a_client_gets_its_results_from_either_and_refines_them_there(shared, second, disc):
    with start_first(shared) as first:
        answer = first.segment(png(disc[0]), DISC)
        timestamp = answer.json()["timestamp"]
        assert f"{timestamp:.6f}".endswith("01")
        place = f"/get_segmented_image/{timestamp:.6f}"
        for view in ("mask", "overlay", "image"):
            ours, theirs = (server.get(f"{place}?view={view}") for server in (second, first))
            assert ours.status_code == 200
            assert ours.content == theirs.content
        dicom = [server.get(f"/get_dicom_image/{timestamp:.6f}?type=seg") for server in (second, first)]
        assert dicom[0].content == dicom[1].content and dicom[0].content[128:132] == b"DICM"
        more = json.dumps({**json.loads(DISC), "refine": timestamp})
        refined = second.segment(png(disc[0]), more)
        assert refined.status_code == 200, refined.text
        assert f"{refined.json()['timestamp']:.6f}".endswith("02")
        assert first.get(f"/get_segmented_image/{refined.json()['timestamp']:.6f}").status_code == 200


def test_of_a_server_that_is_killed_every_acknowledged_result_is_whole_at_the_other(shared, second, disc):
    acknowledged: list[float] = []

    def segment_until_it_is_gone(server: Server) -> None:
        while True:
            try:
                answer = server.segment(png(disc[0]), DISC)
            except Exception:  # it is gone
                return
            assert answer.status_code == 200, answer.text
            acknowledged.append(answer.json()["timestamp"])

    with start_first(shared) as first:
        clients = [threading.Thread(target=segment_until_it_is_gone, args=(first,)) for _ in range(3)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) < 12:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first.process.kill()
        first.process.wait(10)
        for client in clients:
            client.join(30)
    expected = None
    for timestamp in acknowledged:
        mask = second.get(f"/get_segmented_image/{timestamp:.6f}?view=mask")
        assert mask.status_code == 200
        pixels = np.asarray(Image.open(io.BytesIO(mask.content)))
        assert expected is None or np.array_equal(pixels, expected)
        expected = pixels
    assert expected is not None and expected.any()
    with start_first(shared) as first:  # its number is free again
        assert first.get(f"/get_segmented_image/{acknowledged[-1]:.6f}").status_code == 200

"""What a server must survive: kills at any moment, a full or broken disk, damage to its store, a second server."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from PIL import Image

from support.server_process import Server, command, free_port, running_server
from support.small_disk import mounted_disk

pytestmark = pytest.mark.server

VIEWS = ("overlay", "contour", "mask", "image")
RESULT = re.compile(r"\d+\.\d{6}")
POINT = json.dumps({"positive_points": [{"x": 30, "y": 30}]})


def picture(number: int) -> bytes:
    """A PNG of its own: a disc on noise."""
    rows, columns = np.mgrid[:64, :72]
    noise = np.random.default_rng(number).integers(0, 60, rows.shape)
    disc = np.where((columns - 30) ** 2 + (rows - 30) ** 2 < 200, 150, 40)
    buffer = io.BytesIO()
    Image.fromarray((noise + disc).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def assert_whole(server: Server, timestamp: str) -> None:
    """Every view and every DICOM object of a result opens, and the mask and the Segmentation are one."""
    pictures = {}
    for view in VIEWS:
        answer = server.get(f"/get_segmented_image/{timestamp}?view={view}")
        assert answer.status_code == 200, (timestamp, view, answer.text)
        pictures[view] = np.asarray(Image.open(io.BytesIO(answer.content)))
    capture = server.get(f"/get_dicom_image/{timestamp}")
    segmentation = server.get(f"/get_dicom_image/{timestamp}?type=seg")
    assert (capture.status_code, segmentation.status_code) == (200, 200)
    overlay = pydicom.dcmread(io.BytesIO(capture.content)).pixel_array
    np.testing.assert_array_equal(overlay, pictures["overlay"])
    planes = pydicom.dcmread(io.BytesIO(segmentation.content)).pixel_array
    np.testing.assert_array_equal(np.reshape(planes, (-1, *pictures["mask"].shape))[0], pictures["mask"] == 1)


def outcome(server: Server, timestamp: str, seconds: float = 60) -> requests.Response:
    """The answer about an accepted request when there is one."""
    deadline = time.monotonic() + seconds
    while True:
        answer = server.get(f"/get_segmented_image/{timestamp}")
        if answer.status_code != 202 or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def segmented_in_turn(server: Server, content: bytes, seconds: float = 120) -> requests.Response:
    """The answer to a segmentation when there is room for it: what was accepted before comes first."""
    deadline = time.monotonic() + seconds
    while True:
        answer = server.segment(content, POINT)
        if answer.status_code != 429 or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


@dataclass
class Clients:
    """Some clients at once, who note what they were promised until the server is gone."""

    done: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def at_work(self, server: Server) -> Iterator[None]:
        """Requests of both kinds, one after the other from each client."""
        threads = [threading.Thread(target=self._work, args=(server, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join(60)

    def _work(self, server: Server, number: int) -> None:
        for count in itertools.count():
            later = count % 2 == number % 2
            headers = {"Prefer": "respond-async"} if later else {}
            try:
                answer = server.segment(picture(1000 * number + count), POINT, headers=headers)
            except requests.RequestException:
                return
            if answer.status_code == 429:
                time.sleep(0.1)
            elif answer.status_code in (200, 202):
                promised = self.accepted if answer.status_code == 202 else self.done
                promised.append(answer.text.split(":")[1].strip(" }"))
            else:
                self.faults.append(answer.text)
                return


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(2, id="twice", marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(50, id="50 times", marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_at_any_moment(tmp_path, kills):
    """What was answered is there, whole; what was accepted is done or reported; nothing is half there."""
    store, clients, newest = tmp_path / "store", Clients(), 0.0
    moments = random.Random(kills)
    for run in range(kills):
        with running_server(tmp_path / f"run {run}", "results", str(store), "max_queue", "16") as server:
            fresh = segmented_in_turn(server, picture(run))
            assert fresh.status_code == 200 and fresh.json()["timestamp"] > newest
            newest = fresh.json()["timestamp"]
            with clients.at_work(server):
                time.sleep(moments.uniform(0, 3))
                server.process.send_signal(signal.SIGKILL)
                server.process.wait(20)
            newest = max([newest, *map(float, clients.done), *map(float, clients.accepted)])
        assert not clients.faults

    assert clients.done and clients.accepted, "nobody was promised anything, so nothing was tried"
    with running_server(tmp_path / "last", "results", str(store)) as server:
        fresh = segmented_in_turn(server, picture(kills))
        assert fresh.status_code == 200 and fresh.json()["timestamp"] > newest
        for timestamp in clients.accepted:
            answer = outcome(server, timestamp)
            given_up = answer.status_code == 500 and "stopped" in answer.json()["detail"]
            assert answer.status_code == 200 or given_up, (timestamp, answer.status_code, answer.text[:300])
        for timestamp in clients.done:
            assert_whole(server, timestamp)
        for folder in store.iterdir():
            if folder.name != ".lock":
                assert RESULT.fullmatch(folder.name), folder.name
                if "failure" not in json.loads((folder / "manifest.json").read_bytes()):
                    assert_whole(server, folder.name)
        assert "damaged" not in server.log.read_text()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    with mounted_disk(tmp_path / "small disk", 4) as disk:
        yield disk


def test_a_full_disk(tmp_path, small_disk):
    store = small_disk / "results"
    with running_server(tmp_path / "run", "results", str(store)) as server:
        done = []
        for number in range(500):
            answer = server.segment(picture(number), POINT)
            if answer.status_code != 200:
                break
            done.append(str(answer.json()["timestamp"]))
            if number < 4:
                assert_whole(server, done[-1])
        assert answer.status_code == 507 and "space" in answer.json()["detail"]
        assert len(done) > 6
        for timestamp in done[:4]:
            assert_whole(server, timestamp)
        for timestamp in done[4:]:
            assert server.get(f"/get_segmented_image/{timestamp}?view=mask").status_code == 200
        (small_disk / "filling").write_bytes(bytes(shutil.disk_usage(small_disk).free))
        before = {path.name: path.stat().st_size for path in (store / f"{float(done[-1]):.6f}").iterdir()}
        for path in ("get_segmented_image", "get_dicom_image"):
            unmade = server.get(f"/{path}/{done[-1]}")
            assert unmade.status_code == 507 and "space" in unmade.json()["detail"]
        assert {path.name: path.stat().st_size for path in (store / f"{float(done[-1]):.6f}").iterdir()} == before
        (small_disk / "filling").unlink()
        assert not list(store.glob(".*.part"))
        assert server.get("/health_check/").status_code == 200

        later = server.segment(picture(0), POINT, headers={"Prefer": "respond-async"})
        assert later.status_code in (202, 507)
        if later.status_code == 202:
            assert outcome(server, later.json()["timestamp"]).status_code == 507

        for timestamp in done[:2]:
            shutil.rmtree(store / f"{float(timestamp):.6f}")
        again = server.segment(picture(1), POINT)
        assert again.status_code == 200, again.text
        assert_whole(server, str(again.json()["timestamp"]))
        assert server.get(f"/get_segmented_image/{done[0]}").status_code == 404
        assert_whole(server, done[-1])
        assert_whole(server, done[3])
        assert "Traceback" not in server.log.read_text()
    if later.status_code == 202:
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
        with running_server(tmp_path / "next", "results", str(store)) as server:
            assert outcome(server, later.json()["timestamp"]).status_code == 200


def start_and_fail(tmp_path: Path, store: Path) -> str:
    """What a server that cannot start says."""
    done = subprocess.run(
        command(tmp_path / "studies", free_port(), "results", str(store), "audit_log", str(tmp_path / "audit.jsonl")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    return said


def test_a_store_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = start_and_fail(tmp_path, tmp_path / "file")
    assert "Cannot start" in said and f"{tmp_path}/file" in said
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_store_that_cannot_be_written(tmp_path, small_disk):
    (small_disk / "results").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = start_and_fail(tmp_path, small_disk / "results")
    assert "Cannot start" in said and "cannot be used" in said


def test_damage_is_not_served_and_the_rest_is(tmp_path):
    store = tmp_path / "store"
    with running_server(tmp_path / "run 0", "results", str(store)) as server:
        stamps = [str(server.segment(picture(number), POINT).json()["timestamp"]) for number in range(8)]
        for stamp in stamps[:7]:
            assert_whole(server, stamp)
    folders = [store / f"{float(stamp):.6f}" for stamp in stamps]
    (folders[0] / "manifest.json").unlink()
    (folders[1] / "manifest.json").write_bytes(b"\xff garbage")
    (folders[2] / "manifest.json").write_text("[" * 100_000)
    (folders[3] / "mask.png").unlink()
    (folders[4] / "segmentation.dcm").write_bytes(b"short")
    manifest = json.loads((folders[5] / "manifest.json").read_text())
    manifest["files"]["../../outside"] = 7
    (tmp_path / "outside").write_text("outside")
    (folders[5] / "manifest.json").write_text(json.dumps(manifest))
    (store / "somebody else's").mkdir()
    (store / "somebody else's" / "file").write_text("keep")
    (store / "1700000000.000000").write_text("a file with a result's name")
    (store / ".1700000001.000000.part").mkdir()
    (store / ".1700000002.000000.queued").mkdir()
    with running_server(tmp_path / "run 1", "results", str(store)) as server:
        for stamp in stamps[6:]:
            assert_whole(server, stamp)
        for stamp in stamps[:6]:
            assert server.get(f"/get_segmented_image/{stamp}").status_code == 404
            assert f"{float(stamp):.6f}" in server.log.read_text()
        for name in ("1700000000", "1700000001", "1700000002"):
            assert server.get(f"/get_segmented_image/{name}").status_code == 404
        assert server.segment(picture(9), POINT).status_code == 200
        assert "Traceback" not in server.log.read_text()
    assert (store / "somebody else's" / "file").read_text() == "keep"
    assert all(folder.is_dir() for folder in folders), "evidence was deleted"
    assert not list(store.glob(".*.part"))


def test_a_second_server_on_the_same_store(tmp_path):
    store = tmp_path / "store"
    with running_server(tmp_path / "first", "results", str(store)) as first:
        before = str(first.segment(picture(0), POINT).json()["timestamp"])
        said = start_and_fail(tmp_path, store)
        assert "Cannot start" in said and "another server uses" in said and str(store) in said
        assert_whole(first, before)
        assert first.segment(picture(1), POINT).status_code == 200
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(20)
        with running_server(tmp_path / "second", "results", str(store)) as second:
            assert_whole(second, before)
            assert second.segment(picture(2), POINT).status_code == 200

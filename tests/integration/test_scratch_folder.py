"""No temporary file outlives its request, whatever becomes of that, or its server beyond the next start."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from support.attacks import IMAGE
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import Server, running_server
from support.small_disk import mounted_disk

pytestmark = pytest.mark.server

CLICK = json.dumps({"foreground": [list(BALL_CENTRE)], "result_extension": ".nii.gz"})
POINT = '{"positive_points": [{"x": 2, "y": 2}]}'
BIG = np.random.default_rng(0).bytes(3 << 20)
"""More than is kept in memory while a form is read."""


def files_in(folder: Path) -> list[str]:
    """Every file below a folder; those that vanish meanwhile are not meant."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def assert_empty(folder: Path, after: str) -> None:
    deadline = time.monotonic() + 5  # what is removed when the answer has been sent
    while (left := files_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, (after, left)


def studies_in(folder: Path) -> Path:
    studies = folder / "studies"
    studies.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(studies / "ball.nii.gz")
    return studies


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("scratch")
    scratch = folder / "tmp"
    scratch.mkdir()
    studies = studies_in(folder)
    with running_server(folder / "server", studies=studies, variables={"TMPDIR": str(scratch)}) as running:
        label = gzip.compress(nibabel.Nifti1Image(ball_volume()[1].astype(np.uint8), BALL_AFFINE).to_bytes())
        form = {"files": {"label": ("a.nii.gz", label)}, "data": {"params": "{}"}}  # prompts for a batch
        requests.put(f"{running.url}/datastore/label?image=ball&tag=original", timeout=60, **form).raise_for_status()
        yield running, scratch


def put(path: str, files: dict, **data: str) -> tuple:
    return ("PUT", path, {"files": files, "data": data})


ODD = '{"name": "../x"}'
REQUESTS = [
    ("POST", "/infer/sam_tiny?image=ball&output=image", {"data": {"params": CLICK}}),
    ("POST", "/infer/sam_tiny?image=ball", {"data": {"params": CLICK}}),
    ("POST", "/infer/sam_tiny?image=ball&output=json", {"data": {"params": CLICK}}),
    ("POST", "/infer/sam_tiny?image=ball&output=dicom_seg", {"data": {"params": CLICK}}),
    ("POST", "/infer/sam_tiny?image=ball&output=image", {"data": {"params": '{"foreground": [[1, 1, 99]]}'}}),
    ("POST", "/infer/sam_tiny?output=image", {"data": {"params": CLICK}, "files": {"file": ("a.nii.gz", IMAGE)}}),
    ("POST", "/infer/sam_tiny?output=image", {"data": {"params": CLICK}, "files": {"file": ("a.nrrd", BIG)}}),
    ("POST", "/infer/sam_tiny?image=ball", {"data": {"params": CLICK}, "files": {"label": ("a.nii.gz", IMAGE)}}),
    put("/datastore/image?image=new", {"file": ("a.nii.gz", IMAGE)}),
    put("/datastore/image?image=../new", {"file": ("a.nii.gz", IMAGE)}),
    put("/datastore/image?image=odd", {"file": ("a.nii.gz", IMAGE)}, params=ODD),
    put("/datastore/image?image=bad", {"file": ("a.nii.gz", BIG)}),
    put("/datastore/label?image=ball&tag=final", {"label": ("a.nii.gz", BIG)}),
    put("/datastore/label?image=ball&tag=final", {"label": ("a.nii.gz", IMAGE)}),
    put("/datastore/label?image=none&tag=final", {"label": ("a.nii.gz", IMAGE)}),
    ("GET", "/datastore/dataset", {}),
    put("/session/", {"files": ("a.nii.gz", IMAGE)}),
    put("/session/", {"files": ("a.nii.gz", BIG)}),
    put("/session/", {"files": ("meta.info", IMAGE)}),
    put("/session/?uncompress=true", {"files": ("a.tar", BIG)}),
    ("POST", "/batch/infer/sam_tiny?run_sync=true", {"json": {"images": ["ball"], "prompts": "labels"}}),
    ("POST", "/segment_input_image/", {"files": {"file": ("a.nii.gz", IMAGE)}, "data": {"sam_input": POINT}}),
    ("POST", "/segment_input_image/", {"files": {"file": ("a.nrrd", BIG)}}),
    ("POST", "/segment_input_image/", {"files": {"file": ("a.nrrd", b"NRRD0004\ntype: uint8\n\n" + BIG)}}),
    ("POST", "/segment_input_image/", {"files": {"file": BIG}, "headers": {"Prefer": "respond-async"}}),
]


@pytest.mark.parametrize(("method", "path", "sent"), REQUESTS)
def test_no_file_stays_after_a_request(server, method, path, sent):
    running, scratch = server
    answer = requests.request(method, running.url + path, timeout=60, **sent)
    assert answer.status_code < 500 and "has no label" not in answer.text, answer.text
    assert_empty(scratch, path)


def test_no_file_stays_when_the_client_leaves(server):
    running, scratch = server
    body = requests.Request(
        "POST", running.url + "/infer/sam_tiny", data={"params": CLICK}, files={"file": ("a.nii.gz", IMAGE)}
    ).prepare()
    host, port = running.url.removeprefix("http://").split(":")
    head = "".join(f"{key}: {value}\r\n" for key, value in body.headers.items())
    request = f"POST /infer/sam_tiny?output=image HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode() + body.body
    for sent in (request, request[:-10]):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert running.get("/health_check/").status_code == 200
    assert_empty(scratch, "two clients that left")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_killed_server_left_goes_at_the_next_start(tmp_path):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    studies = studies_in(tmp_path)
    with running_server(tmp_path / "first", studies=studies, variables={"TMPDIR": str(scratch)}) as server:
        sending = threading.Thread(target=_send_until_killed, args=(server,))
        sending.start()
        _kill_at_work(server.process, scratch)
        sending.join()
    assert files_in(scratch), "a request was in the middle of its work"
    with running_server(tmp_path / "last", studies=studies, variables={"TMPDIR": str(scratch)}):
        assert not files_in(scratch)
        assert len(list(scratch.glob("sam-app-*"))) == 1


def _kill_at_work(process: subprocess.Popen[bytes], scratch: Path) -> None:
    """Kill a process as soon as it has a file, held still while one looks."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        if files_in(scratch):
            break
        process.send_signal(signal.SIGCONT)
        time.sleep(0.005)
    process.kill()
    process.wait()


def _send_until_killed(server: Server) -> None:
    form = {"data": {"params": CLICK}, "files": {"file": ("a.nii.gz", IMAGE), "label": ("b.nii.gz", BIG)}}
    while True:
        try:
            server.post("/infer/sam_tiny?output=image", **form)
        except requests.RequestException:  # refused, or cut off in the middle of the answer
            return


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted_disk(tmp_path / "small", 1) as disk:
        yield disk


def test_a_full_scratch_folder_is_507_and_nothing_stays(small_disk, tmp_path):
    studies = studies_in(tmp_path)
    with running_server(tmp_path / "server", studies=studies, variables={"TMPDIR": str(small_disk)}) as server:
        form = {"data": {"params": CLICK}}
        for method, path, sent in (
            ("POST", "/segment_input_image/", {"files": {"file": BIG}}),
            ("POST", "/infer/sam_tiny?output=image", {**form, "files": {"file": ("a.nii.gz", BIG)}}),
            ("PUT", "/datastore/image?image=big", {"files": {"file": ("a.nii.gz", BIG)}}),
            ("PUT", "/datastore/label?image=ball&tag=final", {"files": {"label": ("a.nii.gz", BIG)}}),
            ("PUT", "/session/", {"files": {"files": ("a.nii.gz", BIG)}}),
        ):
            answer = requests.request(method, server.url + path, timeout=60, **sent)
            assert answer.status_code == 507, (path, answer.status_code, answer.text)
            assert "space" in answer.json()["detail"]
            assert_empty(small_disk, path)
        (small_disk / "filler").write_bytes(bytes(small_disk_left(small_disk)))
        for path, sent in (
            ("/infer/sam_tiny?image=ball&output=image", form),
            ("/infer/sam_tiny?output=image", {**form, "files": {"file": ("a.nii.gz", IMAGE)}}),
        ):
            answer = server.post(path, **sent)
            assert answer.status_code == 507, (path, answer.status_code, answer.text)
        (small_disk / "filler").unlink()
        assert_empty(small_disk, "a disk without any space")


def small_disk_left(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_bsize

"""An image's file that is gone although it is listed is not found: no route takes it for a fault of the server."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from support.attacks import IMAGE
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

CLICK = {"params": json.dumps({"foreground": [[2, 2, 2]], "result_extension": ".nii.gz"})}
USES: dict[str, Callable[[Server], requests.Response]] = {
    "downloads it": lambda server: server.get("/datastore/image?image=scan"),
    "asks for its checksum": lambda server: requests.head(
        f"{server.url}/datastore/image?image=scan&check_sum=SHA256:00", timeout=60
    ),
    "clicks on it": lambda server: server.post("/infer/sam_tiny?image=scan&output=image", data=CLICK),
    "asks for DICOM SEG": lambda server: server.post("/infer/sam_tiny?image=scan&output=dicom_seg", data=CLICK),
    "labels it": lambda server: requests.put(
        f"{server.url}/datastore/label?image=scan&tag=final",
        files={"label": ("l.nii.gz", IMAGE)},
        data={"params": "{}"},
        timeout=60,
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """It does not follow what happens in the folder of its studies."""
    folder = tmp_path_factory.mktemp("vanished")
    (folder / "studies").mkdir()
    (folder / "studies" / "scan.nii.gz").write_bytes(IMAGE)
    with running_server(folder, variables={"MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}) as running:
        yield running


@pytest.fixture
def scan(server) -> Iterator[Path]:
    path = server.studies / "scan.nii.gz"
    path.write_bytes(IMAGE)
    yield path
    assert "Traceback" not in server.log.read_text(errors="replace")


@pytest.mark.parametrize("use", USES)
def test_a_file_that_is_gone_is_not_found(server, scan, use):
    assert server.post("/infer/sam_tiny?image=scan&output=image", data=CLICK).status_code == 200, "it is kept in memory"
    scan.unlink()
    answer = USES[use](server)
    assert answer.status_code == 404, answer.text
    assert answer.request.method == "HEAD" or answer.json()["detail"]


def test_a_file_that_comes_and_goes_all_the_time_is_never_a_fault(server, scan):
    over, statuses = threading.Event(), Counter[tuple[str, int]]()

    def come_and_go() -> None:
        while not over.wait(0.003):
            scan.unlink(missing_ok=True)
            over.wait(0.003)
            scan.write_bytes(IMAGE)

    def use(name: str) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            statuses[name, USES[name](server).status_code] += 1

    with ThreadPoolExecutor(len(USES) + 1) as threads:
        goes = threads.submit(come_and_go)
        try:
            list(threads.map(use, USES))
        finally:
            over.set()
        goes.result()
    assert not {key: count for key, count in statuses.items() if key[1] >= 500}, statuses
    assert {name for name, status in statuses if status == 404} >= {"downloads it", "clicks on it"}, statuses

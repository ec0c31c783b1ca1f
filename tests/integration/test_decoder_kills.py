"""Decoders that are ended again and again while others work: nobody's request fails, and nothing else is noticed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from pydicom.data import get_testdata_file

from support.server_process import running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

NAMES = ("MR_small_jp2klossless.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm")


def decoders(server_pid: int) -> list[int]:
    found = []
    for child in psutil.Process(server_pid).children(recursive=True):
        try:
            if any("lib.imaging.decoding.isolation" in word for word in child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(10, id="some", marks=pytest.mark.long),
        pytest.param(100, id="many", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
def test_no_request_fails_while_decoders_are_killed(tmp_path: Path, kills: int) -> None:
    contents = [Path(str(get_testdata_file(name, download=False))).read_bytes() for name in NAMES]
    (tmp_path / "studies").mkdir()
    over = False
    with running_server(tmp_path) as server:

        def upload(number: int) -> list[int]:
            """Uploads until it is over; the statuses. Each image is another one, so that it is decoded anew."""
            statuses, chosen = [], random.Random(number)
            with requests.Session() as session:
                while not over:
                    content = chosen.choice(contents) + b"\xfc\xff\xfc\xffOB\x00\x00\x08\x00\x00\x00"
                    files = {"file": ("image.dcm", content + chosen.randbytes(8))}
                    asked = {"sam_input": json.dumps({"positive_points": [{"x": 20, "y": 20}]})}
                    answer = session.post(f"{server.url}/segment_input_image/", files=files, data=asked, timeout=60)
                    statuses.append(answer.status_code)
            return statuses

        with ThreadPoolExecutor(3) as threads:
            uploads = [threads.submit(upload, number) for number in range(3)]
            healthy = 0
            for number in range(kills):
                while not (alive := decoders(server.process.pid)):  # one that is idle is replaced when it is needed
                    assert not any(each.done() for each in uploads), [each.result() for each in uploads if each.done()]
                    time.sleep(0.05)
                os.kill(alive[number % len(alive)], signal.SIGKILL)
                time.sleep(0.3)
                healthy += requests.get(f"{server.url}/health_check/", timeout=30).status_code == 200
            over = True
            statuses = [status for each in uploads for status in each.result()]
    print(f"{kills} decoders killed, {len(statuses)} uploads, {sorted(set(statuses))}")
    assert healthy == kills
    assert set(statuses) == {200} and len(statuses) >= len(uploads)

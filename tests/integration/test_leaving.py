"""Work ends when its client has left or its time is up, and its place is free for others."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

from support.server_process import Server, running_server

pytestmark = pytest.mark.server

BOXES = [{"startX": 10 + n, "startY": 10, "width": 880, "height": 880 - n} for n in range(250)]
LONG = json.dumps({"rectangles": BOXES, "multimask": True})
"""Takes many seconds, in dozens of steps."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("leaving"), "max_seconds", "4", "max_queue", "2") as running:
        assert running.segment(picture(), '{"positive_points": [{"x": 500, "y": 500}]}').status_code == 200
        yield running


def picture() -> bytes:
    rows, columns = np.mgrid[:1000, :1000]
    grey = ((rows // 50 + columns // 50) % 2 * 150).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


def becomes(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (is_true := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_true


def last_entry(server: Server) -> dict:
    lines = [json.loads(line) for line in server.audit.read_text().splitlines()]
    return [line for line in lines if line["route"] == "/segment_input_image/"][-1]


def running(server: Server) -> int:
    return server.get("/health_check/").json()["queue"]["running"]


def test_work_ends_when_the_client_leaves_and_is_audited_so(server):
    form = {"files": {"file": ("a.png", picture())}, "data": {"sam_input": LONG}}
    body = requests.Request("POST", server.url + "/segment_input_image/", **form).prepare()
    host, port = server.url.removeprefix("http://").split(":")
    head = "".join(f"{key}: {value}\r\n" for key, value in body.headers.items())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /segment_input_image/ HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode() + body.body)
        assert becomes(lambda: running(server) == 1, 3)
    assert becomes(lambda: running(server) == 0, 2)
    assert becomes(lambda: last_entry(server)["outcome"] == "disconnected", 2)
    entry = last_entry(server)
    assert (entry["status"], entry["reason"]) == (499, "ClientDisconnectedError")
    assert server.segment(picture(), '{"positive_points": [{"x": 500, "y": 500}]}').status_code == 200


def test_work_ends_at_the_limit_and_is_audited_so(server):
    started = time.monotonic()
    answer = server.segment(picture(), LONG)
    assert answer.status_code == 503, answer.text
    assert time.monotonic() - started < 8
    assert becomes(lambda: last_entry(server)["outcome"] == "timeout", 2)
    assert becomes(lambda: running(server) == 0, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_request_that_the_server_s_end_broke_off_is_audited_by_the_next_one(tmp_path):
    audit = ("audit_log", str(tmp_path / "shared.jsonl"))
    with running_server(tmp_path / "first", *audit) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.segment, picture(), LONG)
        assert becomes(lambda: running(server) == 1, 10)
        server.process.kill()
        with pytest.raises(requests.ConnectionError):
            asked.result(20)
    with running_server(tmp_path / "second", *audit):
        entries = [json.loads(line) for line in (tmp_path / "shared.jsonl").read_text().splitlines()]
    broken = [entry for entry in entries if entry["reason"] == "ServerEnded"]
    assert [(entry["route"], entry["outcome"]) for entry in broken] == [("/segment_input_image/", "failed")]

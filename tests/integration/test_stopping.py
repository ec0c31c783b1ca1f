"""A server that is told to end, as by `docker stop`, ends in time, also while a client sends half of its request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from health import wait_until_healthy
from support.server_process import REPOSITORY, free_port

pytestmark = pytest.mark.server

STOP_S = 10
"""After so many seconds docker kills what it was to stop."""


def test_it_ends_within_ten_seconds_whatever_its_clients_do(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "studies").mkdir()
    places = {"results": "results", "embeddings": "embeddings", "audit_log": "audit.jsonl"}
    options = [word for key, name in places.items() for word in ("--conf", key, str(tmp_path / name))]
    command = [
        sys.executable,
        REPOSITORY / "scripts" / "serve.py",
        "--port",
        str(port),
        "--studies",
        tmp_path / "studies",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "apps" / "sam_app")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment, cwd=tmp_path)
    try:
        assert wait_until_healthy(f"http://127.0.0.1:{port}", lambda: process.poll() is None, 120)
        with socket.create_connection(("127.0.0.1", port)) as half, socket.create_connection(("127.0.0.1", port)):
            half.sendall(
                b"POST /segment_input_image/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
        assert process.returncode in (0, -signal.SIGTERM), (tmp_path / "log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()

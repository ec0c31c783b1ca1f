"""A real server with few files, and more silent connections than it may have."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from statistics import median
from urllib.parse import urlsplit

import pytest
import requests

from support.server_process import running_server

pytestmark = pytest.mark.server

SILENT = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("open_files", [256, pytest.param(None, marks=pytest.mark.long)])
def test_a_new_client_is_served_within_a_second(tmp_path, open_files):
    (tmp_path / "studies").mkdir()
    with running_server(tmp_path, open_files=open_files) as server, ExitStack() as silent:
        address = urlsplit(server.url)
        before = server.log.stat().st_size
        for number in range(SILENT):
            client = silent.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))
            client.sendall(b"" if number % 2 else b"POST /segment_input_image/ HTTP/1.1\r\nHost: localhost\r\nX: ")
        waited = []
        for path in ("/health_check/", "/info/", "/metrics") * 3:
            started = time.monotonic()
            assert requests.get(server.url + path, timeout=20).status_code == 200
            waited.append(time.monotonic() - started)
        assert median(waited) < 1, waited
        assert server.log.stat().st_size - before < 100_000

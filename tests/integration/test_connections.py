"""A real server with few files, and more silent connections than it may have."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from support.server_process import running_server

pytestmark = pytest.mark.server

SILENT = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("open_files", [256, None])
def test_a_new_client_is_served_within_a_second(tmp_path, open_files):
    (tmp_path / "studies").mkdir()
    with running_server(tmp_path, open_files=open_files) as server:
        address = urlsplit(server.url)
        before = server.log.stat().st_size
        silent = []
        for number in range(SILENT):
            client = socket.create_connection((address.hostname, address.port), timeout=20)
            client.sendall(b"" if number % 2 else b"POST /segment_input_image/ HTTP/1.1\r\nHost: localhost\r\nX: ")
            silent.append(client)
        slowest = 0.0
        for path in ("/health_check/", "/info/", "/metrics") * 3:
            started = time.monotonic()
            assert requests.get(server.url + path, timeout=20).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1, slowest
        assert server.log.stat().st_size - before < 100_000
        for client in silent:
            client.close()

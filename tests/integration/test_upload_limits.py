"""Bounds on requests' bodies, kept by a real server on every route that takes one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from support.server_process import Server, running_server

pytestmark = pytest.mark.server

MIB = 2**20
TOO_LARGE = {"detail": "the request is larger than the 1 MiB that are allowed"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("body limit")
    with running_server(folder, "max_upload_mb", "1", "max_seconds", "2") as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/segment_input_image/", "file"),
        ("POST", "/infer/sam_tiny?image=x", "file"),
        ("PUT", "/datastore/image?image=x", "file"),
        ("PUT", "/datastore/label?image=x", "label"),
        ("PUT", "/session/", "files"),
    ],
)
def test_a_large_upload_is_refused_on_every_route(server, method, path, field):
    answer = requests.request(method, server.url + path, files={field: ("x.nii.gz", bytes(3 * MIB))}, timeout=30)
    assert (answer.status_code, answer.json()) == (413, TOO_LARGE)


def test_chunks_without_an_announced_length_are_counted(server):
    parts = iter([b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n', *[bytes(MIB // 4)] * 20])
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = requests.post(server.url + "/segment_input_image/", data=parts, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()) == (413, TOO_LARGE)


def test_an_upload_that_does_not_come_on_is_ended(server):
    address = urlsplit(server.url)
    head = (
        "POST /segment_input_image/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        started = time.monotonic()
        client.sendall(head.encode())
        client.settimeout(0.1)
        answer, drops = b"", 0
        while time.monotonic() - started < 30:
            try:
                part = client.recv(2**16)
            except TimeoutError:
                client.sendall(b"x")  # drop by drop does not make it longer
                drops += 1
                continue
            if not part:
                break
            answer += part
        seconds = time.monotonic() - started
    assert answer.startswith(b"HTTP/1.1 408 ") and b"within 2 seconds" in answer, answer
    assert drops > 5 and 1.9 < seconds < 10, "the server closes the connection"
    assert server.get("/health_check/").status_code == 200


def test_what_fits_is_taken(server):
    assert server.segment(bytes(MIB // 2), "{}").status_code == 415

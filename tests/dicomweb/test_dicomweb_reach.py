from __future__ import annotations

import logging
import socket

import pytest

from lib.dicomweb.connection import warn_if_unreachable


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def warned(caplog, url: str) -> list[str]:
    caplog.set_level(logging.WARNING)
    warn_if_unreachable(url).join()
    return [record.getMessage() for record in caplog.records]


def test_an_archive_that_is_not_there_is_named_in_one_line_without_its_address(caplog, port):
    [line] = warned(caplog, f"http://127.0.0.1:{port}/dicom-web")
    assert "cannot be reached now (Connection refused)" in line and str(port) not in line


def test_of_one_that_is_there_nothing_is_said(caplog):
    with socket.create_server(("127.0.0.1", 0)) as archive:
        assert warned(caplog, f"http://127.0.0.1:{archive.getsockname()[1]}/dicom-web") == []


def test_behind_a_proxy_nobody_can_tell(caplog, port, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert warned(caplog, f"http://127.0.0.1:{port}/dicom-web") == []

"""A real server and a real browser for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from support.chromium import require_chromium, running_chromium
from support.sam_page import SamPage
from support.server_process import Server, running_server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for each file of tests."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """One server for all tests of this folder; none where there is no browser to use it."""
    require_chromium()
    with running_server(tmp_path_factory.mktemp("page"), "models", "sam_tiny") as running:
        yield running


@pytest.fixture
def sam_page(chromium, server) -> Iterator[SamPage]:
    """The page, freshly loaded. Whatever the browser complained of and the test did not expect fails it."""
    opened = SamPage(chromium, server)
    try:
        yield opened
    finally:
        opened.close()
    assert opened.complaints == []

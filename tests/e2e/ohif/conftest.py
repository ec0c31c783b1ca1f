"""Orthanc with series of two modalities, the server on it, and a browser that can show OHIF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from orthanc import Orthanc
from phantom_series import SERIES
from support.chromium import running_with_webgl
from support.ohif import OhifPage
from support.orthanc import running_orthanc
from support.server_process import REPOSITORY, Server, running_server

PICTURES = REPOSITORY / "e2e-artefacts" / "ohif"


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with running_with_webgl(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, browser) -> Iterator[Orthanc]:
    """A PACS with the synthetic torso; none where there is no browser."""
    folder = tmp_path_factory.mktemp("pacs")
    with running_orthanc(folder / "store") as running:
        running.store(*(file for series in SERIES for file in series.write(folder / "series")))
        yield running


@pytest.fixture(scope="module")
def dicomweb_server(tmp_path_factory, orthanc) -> Iterator[Server]:
    """The server with that PACS, given no more than its address; its port is any but OHIF's default."""
    folder = tmp_path_factory.mktemp("ohif")
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    with running_server(folder, studies=orthanc.dicomweb, variables=variables) as running:
        yield running


@pytest.fixture
def ohif(browser, dicomweb_server) -> Iterator[OhifPage]:
    """OHIF, not opened yet. What went wrong in it fails the test."""
    page = OhifPage(browser, dicomweb_server.url)
    try:
        yield page
    finally:
        page.close()
    assert page.failures == []
    assert page.hosts <= {dicomweb_server.url, "blob:", "data:"}


@pytest.fixture
def picture(ohif, request) -> Callable[[str], Path]:
    """Keeps a screenshot for people to look at."""

    def take(name: str) -> Path:
        story = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
        path = PICTURES / f"{story}-{name}.png"
        ohif.screenshot(path)
        return path

    return take

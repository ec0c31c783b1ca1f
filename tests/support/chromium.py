"""Debian's Chromium without a window, with nothing to reach but this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""WebGL 2 without a graphics card."""


def require_chromium() -> str:
    """The browser's program, or a skip where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium (Debian package chromium) is not installed")
    return program


@contextmanager
def running_chromium(*flags: str) -> Iterator[Browser]:
    """The browser, with more ``flags`` if need be, or a skip where there is none.

    As long as it runs, no other event loop can in this thread: close it before other tests begin.
    """
    program = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running_with_webgl(chromium: Browser) -> Iterator[Browser]:
    """A second browser beside the first, as Playwright runs only once; with WebGL, which costs the others time."""
    browser = chromium.browser_type.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *WEBGL])
    try:
        yield browser
    finally:
        browser.close()

"""The server's app over one real app for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from lib.server.app import create_app
from support.in_process import made_app


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[FastAPI]:
    with made_app(tmp_path_factory.mktemp("server") / "app", max_upload_mb="1") as sam_app:
        app = create_app(sam_app)
        yield app
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()

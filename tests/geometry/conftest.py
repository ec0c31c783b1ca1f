"""Series of every acquisition as files, written once, and the task that is clicked on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lib.imaging.limits import Limits
from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import DEFAULT_MODEL, get_spec
from support.series import Acquisition, write_series


@pytest.fixture(scope="session")
def series_of(tmp_path_factory) -> Callable[[Acquisition], Path]:
    """The folder of an acquisition's series."""
    root = tmp_path_factory.mktemp("series")

    def folder(acquisition: Acquisition) -> Path:
        path = root / acquisition.name
        if not path.exists():
            write_series(path, acquisition)
        return path

    return folder


@pytest.fixture(scope="session")
def task() -> Sam2D:
    """The bundled model as MONAI Label runs it."""
    engine = Engine([get_spec(DEFAULT_MODEL)], MODEL_FOLDER)
    return Sam2D(DEFAULT_MODEL, engine, Limits())

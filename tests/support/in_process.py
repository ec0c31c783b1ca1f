"""The real app in this process, without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import monailabel.datastore.local
import monailabel.endpoints.datastore
import pytest
from monailabel.config import settings
from starlette import requests

import main
from lib.imaging.decoding.memory_budget import budget
from lib.sam.models.checkpoints import MODEL_FOLDER


@contextmanager
def made_app(folder: Path, *, studies: str = "", **conf: str) -> Iterator[main.SamApp]:
    """Make it with everything that it keeps in a folder; the process is afterwards as before.

    Args:
        folder: Not there yet.
        studies: URL of a DICOMweb server; by default there is an empty folder ``studies``.
        conf: As of ``--conf``.
    """
    (folder / "studies").mkdir(parents=True)
    places = {"results": "results", "audit_log": "audit.jsonl", "embeddings": "embeddings", "datastore": "datastore"}
    kept = (
        *((tempfile, "tempdir"), (requests, "MultiPartParser"), (budget, "total")),
        *((monailabel.datastore.local, "tempfile"), (monailabel.endpoints.datastore, "tempfile")),
        *((settings, "MONAI_LABEL_AUTH_ENABLE"), (settings, "MONAI_LABEL_SESSION_PATH")),
        (settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH"),
    )
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in kept:
            patch.setattr(owner, name, getattr(owner, name))
        settings.MONAI_LABEL_SESSION_PATH = str(folder / "sessions")
        settings.MONAI_LABEL_DICOMWEB_CACHE_PATH = str(folder / "cache")
        patch.setattr(main, "clean_logs", lambda: None)  # it would change pytest's own handlers for good
        paths = {key: str(folder / name) for key, name in places.items()}
        whole = {"models": "sam_tiny", "hosts": "server", **paths, **conf}
        app = main.SamApp(str(MODEL_FOLDER.parent), studies or str(folder / "studies"), whole)
        yield app
        app.engine.predictor(app.engine.default_model)  # a process that ends while OpenVINO loads a model is aborted
        app.datastore().close()

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
def made_app(folder: Path, **conf: str) -> Iterator[main.SamApp]:
    """Make it over empty studies, with everything that it keeps in a folder; the process is afterwards as before.

    Args:
        folder: Not there yet.
        conf: As of ``--conf``.
    """
    (folder / "studies").mkdir(parents=True)
    places = {"results": "results", "audit_log": "audit.jsonl", "embeddings": "embeddings", "datastore": "datastore"}
    kept = (
        *((tempfile, "tempdir"), (requests, "MultiPartParser"), (budget, "total")),
        *((monailabel.datastore.local, "tempfile"), (monailabel.endpoints.datastore, "tempfile")),
        (settings, "MONAI_LABEL_AUTH_ENABLE"),
    )
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in kept:
            patch.setattr(owner, name, getattr(owner, name))
        patch.setattr(main, "clean_logs", lambda: None)  # it would change pytest's own handlers for good
        paths = {key: str(folder / name) for key, name in places.items()}
        whole = {"models": "sam_tiny", "hosts": "server", **paths, **conf}
        app = main.SamApp(str(MODEL_FOLDER.parent), str(folder / "studies"), whole)
        yield app
        app.engine.predictor(app.engine.default_model)  # a process that ends while OpenVINO loads a model is aborted
        app.datastore().close()

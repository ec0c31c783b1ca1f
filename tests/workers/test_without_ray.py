"""A server that was not asked for workers needs no Ray, and one that was says how to install it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.workers import ray_workers
from lib.workers.place import WorkersPlace
from lib.workers.ray_workers import WorkersStartError, workers_at
from support.server_process import SAM_APP


def test_ray_is_not_imported_before_workers_are_started():
    code = "import sys, main, lib.workers.ray_workers; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=SAM_APP,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout.split()[-1] == "False"


def test_workers_without_ray_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkersStartError, match=r"needs Ray, which is not installed: run `scripts/setup --ray`"):
        workers_at(WorkersPlace(here=(1, 1)), [MODELS["sam_tiny"]], MODEL_FOLDER)

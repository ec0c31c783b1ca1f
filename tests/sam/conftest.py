"""Fixtures that several tests of the engine use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.base.locks import locked
from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS, ModelSpec
from lib.sam.predictor import Predictor
from support.sam2_checkpoint import SPEC, write_sam2_checkpoint


def _shared_checkpoint(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec) -> Path:
    """Return a SAM 2's checkpoint in a folder that all processes of a run share: one of them converts its networks."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / spec.name
    folder.mkdir(exist_ok=True)
    with locked(folder):
        path = folder / spec.checkpoint
        return path if path.exists() else write_sam2_checkpoint(folder, spec)


@pytest.fixture(scope="session")
def sam2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam2.1_hiera_tiny.pt`` with random weights, in a model folder."""
    return _shared_checkpoint(tmp_path_factory, SPEC)


@pytest.fixture(scope="session")
def sam2(sam2_checkpoint: Path) -> Predictor:
    """SAM 2 as the engine loads it."""
    return Engine([SPEC], sam2_checkpoint.parent, device="cpu", precision="float32").predictor(SPEC.name)


@pytest.fixture(scope="session")
def medsam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with MedSAM2's checkpoint, of random weights."""
    return _shared_checkpoint(tmp_path_factory, MODELS["medsam2"]).parent


@pytest.fixture(scope="session")
def medsam2(medsam2_folder: Path) -> Predictor:
    """MedSAM2 as the engine loads it: the SAM 2 that takes the least time."""
    spec = MODELS["medsam2"]
    return Engine([spec], medsam2_folder, device="cpu", precision="float32").predictor(spec.name)

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


@pytest.fixture(
    scope="session",
    params=[pytest.param("medsam2", id="512"), pytest.param(SPEC.name, id="1024", marks=pytest.mark.long)],
)
def sam2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """SAM 2 as the engine loads it: for images of 512×512, as MedSAM2 is; for 1024×1024 only with ``-m long``."""
    return _loaded(tmp_path_factory, MODELS[request.param])


@pytest.fixture(scope="session")
def medsam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with MedSAM2's checkpoint, of random weights."""
    return _shared_checkpoint(tmp_path_factory, MODELS["medsam2"]).parent


@pytest.fixture(scope="session")
def medsam2(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """MedSAM2 as the engine loads it: the SAM 2 that takes the least time."""
    return _loaded(tmp_path_factory, MODELS["medsam2"])


def _loaded(tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec) -> Predictor:
    folder = _shared_checkpoint(tmp_path_factory, spec).parent
    return Engine([spec], folder, device="cpu", precision="float32").predictor(spec.name)


@pytest.fixture(scope="session")
def sam2_checkpoint(sam2: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of ``sam2``, with random weights."""
    return _shared_checkpoint(tmp_path_factory, sam2.spec)

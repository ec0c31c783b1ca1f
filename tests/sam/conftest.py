"""Fixtures that several tests of the engine use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from support.sam2_checkpoint import SPEC, write_sam2_checkpoint


@pytest.fixture(scope="session")
def sam2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam2.1_hiera_tiny.pt`` with random weights, in a model folder of its own."""
    return write_sam2_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def sam2(sam2_checkpoint: Path) -> Predictor:
    """SAM 2 as the engine loads it."""
    return Engine([SPEC], sam2_checkpoint.parent, device="cpu", precision="float32").predictor(SPEC.name)


@pytest.fixture(scope="session")
def medsam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with MedSAM2's checkpoint, of random weights."""
    folder = tmp_path_factory.mktemp("medsam2")
    write_sam2_checkpoint(folder, MODELS["medsam2"])
    return folder


@pytest.fixture(scope="session")
def medsam2(medsam2_folder: Path) -> Predictor:
    """MedSAM2 as the engine loads it: the SAM 2 that takes the least time."""
    spec = MODELS["medsam2"]
    return Engine([spec], medsam2_folder, device="cpu", precision="float32").predictor(spec.name)

"""SAM 2's checkpoint files: found, added, verified and loaded like the others, without pickle code or the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.registry import MODELS
from support.sam2_checkpoint import SPEC, write_sam2_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """``sam2.1_hiera_tiny.pt`` with random weights."""
    return write_sam2_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_a_file_carried_in_is_recognised_and_loaded_strictly(checkpoint, tmp_path):
    store = CheckpointStore(tmp_path / "model")
    assert store.state(SPEC) == "missing"
    assert store.add(checkpoint) is SPEC
    assert store.state(SPEC) == "verified"
    module = SPEC.build()
    assert store.load_into(module, SPEC) == store.verified(SPEC).sha256
    tensors = torch.load(checkpoint, weights_only=True)["model"]
    assert module.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())


def test_without_a_file_the_engine_says_so_and_the_message_says_how_to_get_one(tmp_path):
    assert Engine([SPEC], tmp_path, device="cpu").state(SPEC.name) == "no checkpoint"
    with pytest.raises(CheckpointError, match="scripts/weights download sam2_hiera_tiny"):
        CheckpointStore(tmp_path).require(SPEC)


@pytest.mark.parametrize("wrong", ["another size", "a tensor less"])
def test_what_does_not_fit_is_refused(checkpoint, tmp_path, wrong):
    spec, content = SPEC, torch.load(checkpoint, weights_only=True)
    if wrong == "another size":
        spec = MODELS["sam2_hiera_small"]
    else:
        del content["model"]["no_mem_embed"]
    path = tmp_path / spec.checkpoint
    torch.save(content, path)
    reason = "missing no_mem_embed" if wrong == "a tensor less" else "missing"
    with pytest.raises(CheckpointError, match=reason):
        CheckpointStore(tmp_path).verify(spec)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"model": {"no_mem_embed": Trap()}}, tmp_path / SPEC.checkpoint)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        CheckpointStore(tmp_path).verify(SPEC)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_every_size_is_built_without_data_also_where_there_is_a_gpu(size, monkeypatch):
    """As checkpoints are checked before they are loaded; ``sam2`` itself would put tables onto the GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.device("meta"):
        tensors = MODELS[f"sam2_hiera_{size}"].build().state_dict()
    millions = {"tiny": 38.9, "small": 46, "base_plus": 80.8, "large": 224.4}[size]  # as upstream's README says
    assert sum(tensor.numel() for tensor in tensors.values()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_hydra_is_left_as_it_was():
    GlobalHydra.instance().clear()
    with torch.device("meta"):
        SPEC.build()
        assert not GlobalHydra.instance().is_initialized()
        with initialize_config_module("monailabel", version_base="1.2"):
            theirs = GlobalHydra.instance().hydra
            SPEC.build()
            assert GlobalHydra.instance().hydra is theirs

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes import choice, memory_form
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.sam.runtimes.torch_runtime import TorchRuntime
from lib.sam.sam2_predictor import Sam2Predictor
from lib.sam.volume.propagation import VolumePrompts
from lib.sam.volume.sam2_video import propagate_by_memory


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with the bundled model alone, nothing converted."""
    name = MODELS["sam_tiny"].checkpoint
    (tmp_path / name).write_bytes((MODEL_FOLDER / name).read_bytes())
    return tmp_path


@pytest.mark.slow
def test_openvino_is_what_runs_on_a_cpu_with_one_copy_of_the_weights(model_folder: Path):
    predictor = Engine([MODELS["sam_tiny"]], model_folder, device="cpu").predictor("sam_tiny")
    assert isinstance(predictor.runtime, OpenVinoRuntime)
    assert all(values.is_meta for values in predictor.module.image_encoder.parameters())


def test_without_openvino_pytorch_runs_and_the_log_says_why(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, disc
):
    def refuses(*args: object) -> Path:
        raise RuntimeUnavailableError("of the test")

    monkeypatch.setattr(choice, "convert", refuses)
    with caplog.at_level(logging.WARNING):
        predictor = Engine([MODELS["sam_tiny"]], model_folder, device="cpu").predictor("sam_tiny")
    assert isinstance(predictor.runtime, TorchRuntime)
    assert "sam_tiny runs on PyTorch, which is slower on a CPU: of the test" in caplog.text
    assert predictor.encode(disc[0]).features.shape == (1, 160, 64, 64)


def test_int8_without_its_networks_is_refused_with_the_command_that_makes_them(model_folder: Path):
    engine = Engine([MODELS["sam_tiny"]], model_folder, device="cpu", precision="int8")
    with pytest.raises(RuntimeUnavailableError, match="scripts/quantize sam_tiny --images"):
        engine.predictor("sam_tiny")


@pytest.mark.slow
def test_sam2_runs_on_openvino_too_with_one_copy_of_the_weights(medsam2: Predictor):
    assert isinstance(medsam2, Sam2Predictor)
    assert isinstance(medsam2.runtime, OpenVinoRuntime)
    module = medsam2.module
    for part in (module.image_encoder, module.sam_mask_decoder, module.memory_attention, module.memory_encoder):
        assert all(values.is_meta for values in part.parameters())


@pytest.mark.long
def test_sam2_whose_memory_differs_after_conversion_runs_on_pytorch_with_the_same_masks(
    medsam2: Predictor, medsam2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    shutil.copy(medsam2_folder / medsam2.spec.checkpoint, tmp_path)
    monkeypatch.setattr(memory_form, "_halved", lambda projection: projection)  # the channels in another order
    on_torch = Engine([medsam2.spec], tmp_path, device="cpu", precision="float32").predictor(medsam2.spec.name)
    assert isinstance(on_torch.runtime, TorchRuntime)
    assert "medsam2 runs on PyTorch" in caplog.text and "differs from PyTorch's" in caplog.text
    prompts = VolumePrompts({0: Prompts.from_clicks(box=[20, 20, 44, 40])}, {}, range(2))
    ours, theirs = (propagate_by_memory(predictor, picture, prompts).found for predictor in (medsam2, on_torch))
    assert list(ours) == list(theirs) == [0, 1]
    for k in ours:
        np.testing.assert_allclose(ours[k].logits, theirs[k].logits, atol=1e-3, rtol=1e-3)


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.slow
def test_float16_on_a_cpu_runs_on_pytorch_and_has_its_own_embeddings(disc):
    image, _ = disc
    exact, coarse = (
        Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", precision=precision).predictor("sam_tiny")
        for precision in ("float32", "float16")
    )
    one, other = exact.encode(image), coarse.encode(image)
    assert one.key != other.key
    assert 1e-5 < float((one.features - other.features).norm() / one.features.norm()) < 0.05
    assert np.isfinite(other.features.numpy()).all() and other.features.dtype == torch.float32


def test_bfloat16_is_refused_on_a_cpu_without_it(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "has_bfloat16", lambda: False)
    monkeypatch.setattr(choice, "convert", lambda *args: model_folder)
    monkeypatch.setattr(choice, "OpenVinoRuntime", lambda *args: None)
    engine = Engine([MODELS["sam_tiny"]], model_folder, device="cpu", precision="bfloat16")
    with pytest.raises(RuntimeUnavailableError, match="start without --conf precision bfloat16"):
        engine.predictor("sam_tiny")

import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.sam.engine import Engine
from lib.sam.int8 import Int8RefusedError, make_int8
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_ir import FOLDER, NetworkKey, find_networks

TINY = MODELS["sam_tiny"]


def discs(count: int) -> list[np.ndarray]:
    """Bright discs on a darker ground, each elsewhere."""
    images = []
    rows, columns = np.mgrid[:256, :256]
    for seed in range(count):
        random = np.random.default_rng(seed)
        x, y, radius = *random.uniform(80, 176, 2), random.uniform(25, 60)
        grey = np.where((columns - x) ** 2 + (rows - y) ** 2 <= radius**2, 190, 70) + random.normal(0, 6, rows.shape)
        images.append(np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return images


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with the bundled model alone, and its float32 networks if they are there."""
    shutil.copy(MODEL_FOLDER / TINY.checkpoint, tmp_path)
    for networks in (MODEL_FOLDER / FOLDER).glob(f"{TINY.name}-float32-*"):
        shutil.copytree(networks, tmp_path / FOLDER / networks.name)
    return tmp_path


@pytest.mark.long
def test_int8_is_kept_only_if_its_masks_agree(model_folder: Path):
    sha256 = CheckpointStore(model_folder).verified(TINY).sha256
    predictor = Engine([TINY], model_folder, device="cpu", precision="float32").predictor("sam_tiny")
    float32, key = find_networks(model_folder, NetworkKey.of(TINY, sha256)), NetworkKey.of(TINY, sha256, "int8")
    assert float32 is not None
    images = discs(8)

    with pytest.raises(Int8RefusedError, match=r"not 1\.1") as refused:
        make_int8(predictor, float32, model_folder, key, images[:2], images[4:5], min_iou=1.1)
    assert refused.value.check.masks > 50
    assert [path.name for path in (model_folder / FOLDER).iterdir()] == [float32.name], "nothing is left of it"

    check = make_int8(predictor, float32, model_folder, key, images[:2], images[4:5], min_iou=0.8)
    assert 0.8 <= check.mean_iou < 1
    assert 1e-4 < check.embedding_difference < 0.6
    coarse = Engine([TINY], model_folder, device="cpu", precision="int8").predictor("sam_tiny")
    assert "int8" in coarse.runtime.name
    prompts, image = [Prompts.from_clicks(box=[40, 40, 216, 216])], images[7]
    embeddings = [one.encode(image) for one in (predictor, coarse)]
    assert embeddings[0].key != embeddings[1].key
    exact, near = (
        one.decode(embedding, prompts)[0].masks[0]
        for one, embedding in zip((predictor, coarse), embeddings, strict=True)
    )
    assert np.count_nonzero(exact & near) / np.count_nonzero(exact | near) > 0.8

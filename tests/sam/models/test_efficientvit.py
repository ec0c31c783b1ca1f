"""EfficientViT-SAM against its authors' code as the package ``efficientsam`` has it, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientsam.models.efficientvit.sam import EfficientViTSamPredictor
from efficientsam.sam_model_zoo import create_efficientvit_sam_model

from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts

pytestmark = pytest.mark.slow  # as a file: the networks are large for it

SPEC = MODELS["efficientvit_sam_l0"]
SIZES = ["efficientvit_sam_l0", "efficientvit_sam_l1"]


def peer_of(name: str) -> Any:
    """The published module, with random weights and statistics."""
    torch.manual_seed(4)
    module = create_efficientvit_sam_model(name.replace("_", "-"), pretrained=False).eval()
    for key, tensor in module.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return module


@pytest.fixture(scope="module")
def peer() -> Any:
    return peer_of(SPEC.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, peer: Any) -> Path:
    """A model folder with a checkpoint as the published ones are."""
    folder = tmp_path_factory.mktemp("model")
    torch.save(peer.state_dict(), folder / "published.pt")
    CheckpointStore(folder).add(folder / "published.pt", SPEC)
    return folder


@pytest.fixture(scope="module", params=["OpenVINO", pytest.param("PyTorch", marks=pytest.mark.long)])
def predictor(request: pytest.FixtureRequest, folder: Path) -> Predictor:
    if request.param == "OpenVINO":
        predictor = Engine([SPEC], folder, device="cpu").predictor(SPEC.name)
        assert predictor.runtime.name.startswith("OpenVINO")
        return predictor
    module = SPEC.build()
    sha256 = CheckpointStore(folder).load_into(module, SPEC)
    return Predictor(SPEC, module, checkpoint_sha256=sha256, cache=EmbeddingCache(1 << 26))


def an_image(height: int, width: int) -> np.ndarray:
    """Smooth blobs of another kind in each colour, ``(H, W, 3)`` uint8."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (9 + 4 * band)) * np.cos(columns / (13 + 5 * band)) for band in range(3)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("name", SIZES)
def test_the_published_state_fits_strictly_and_the_embedding_is_the_same(name: str) -> None:
    published, ours = peer_of(name), MODELS[name].build().eval()
    ours.load_state_dict(published.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.image_encoder(pixels), published.image_encoder(pixels), atol=1e-4, rtol=0)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(180, 240), (700, 520)])
def test_masks_scores_and_logits_are_the_publishers(predictor: Predictor, peer: Any, shape: tuple[int, int]) -> None:
    height, width = shape
    image = an_image(height, width)
    theirs = EfficientViTSamPredictor(peer)
    theirs.set_image(image)
    embedding = predictor.encode(image)
    torch.testing.assert_close(embedding.features, theirs.features, atol=1e-3, rtol=0)
    points, labels = np.array([[width * 0.4, height * 0.6], [3, height - 1]]), np.array([1, 0])
    box = np.array([width * 0.2, height * 0.1, width * 0.7, height * 0.9])
    for asked in ({"box": box}, {"point_coords": points, "point_labels": labels}):
        masks, scores, logits = theirs.predict(**asked, multimask_output=False)
        prompts = Prompts(
            points=asked.get("point_coords", ()), labels=asked.get("point_labels", ()), box=asked.get("box")
        )
        [ours] = predictor.decode(embedding, [prompts])
        np.testing.assert_allclose(ours.low_res_logits, logits, atol=2e-3)
        np.testing.assert_allclose(ours.scores, scores, atol=1e-3)
        assert np.count_nonzero(ours.masks ^ masks) <= 0.001 * masks.size
        assert 0 < masks.mean() < 1

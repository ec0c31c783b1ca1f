"""MedSAM2, which is SAM 2.1 for images of 512×512, against Meta's own predictors of that size; random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.volume.propagation import VolumePrompts
from lib.sam.volume.sam2_video import propagate_by_memory
from support.sam2_checkpoint import CONFIG, upstream_configuration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),  # upstream's transforms
]

SPEC = MODELS["medsam2"]
SIDE, SLICES = 128, 3
MARKED = Prompts.from_clicks(box=[35, 40, 90, 95])
AT_512 = [
    "++model.image_size=512",
    "++model.memory_attention.layer.self_attention.feat_sizes=[32,32]",
    "++model.memory_attention.layer.cross_attention.feat_sizes=[32,32]",
]
"""What MedSAM2's own configuration, ``sam2.1_hiera_t512.yaml``, changes in SAM 2.1's."""


def frame(k: int) -> np.ndarray:
    """A disc that moves and grows from slice to slice, ``(128, 128, 3)`` uint8: as large as the decoder's logits."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (columns - 55 - 3 * k) ** 2 + (rows - 65) ** 2 <= (15 + 3 * k) ** 2
    noise = np.random.default_rng(k).normal(0, 6, disc.shape)
    return np.repeat(np.clip(np.where(disc, 180, 70) + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def upstream() -> Iterator[None]:
    with upstream_configuration():
        yield


def test_masks_on_an_image_are_the_peers(medsam2: Predictor, medsam2_folder: Path, upstream: None) -> None:
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    path = str(medsam2_folder / SPEC.checkpoint)
    peer = SAM2ImagePredictor(build_sam2(CONFIG, path, device="cpu", hydra_overrides_extra=AT_512))
    peer._bb_feat_sizes = [(128, 128), (64, 64), (32, 32)]  # that class has those of 1024×1024 built in
    image = frame(0)[:100]
    peer.set_image(image)
    embedding = medsam2.encode(image)
    assert embedding.features.shape == (1, 256, 32, 32)
    box, point, label = np.array([35.0, 40, 90, 95]), np.array([[60.0, 50]]), np.array([1])
    masks, _, low_res = peer.predict(box=box, multimask_output=False)
    [first] = medsam2.decode(embedding, [Prompts(box=box)])
    assert first.low_res_logits.shape == (1, 128, 128)
    np.testing.assert_allclose(first.low_res_logits, low_res, atol=1e-4)
    assert np.array_equal(first.masks, masks.astype(bool))
    assert 0 < masks.mean() < 1
    masks, _, low_res = peer.predict(point, label, mask_input=low_res, multimask_output=False)
    again = Prompts(points=point, labels=label, mask_logits=first.low_res_logits[0])
    [refined] = medsam2.decode(embedding, [again])
    np.testing.assert_allclose(refined.low_res_logits, low_res, atol=2e-4)
    assert medsam2.logits_grid((100, 128)).shape == (128, 128)


def test_masks_through_a_volume_are_the_peers(
    medsam2: Any, medsam2_folder: Path, upstream: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam2.build_sam import build_sam2_video_predictor

    path = str(medsam2_folder / SPEC.checkpoint)
    peer = build_sam2_video_predictor(CONFIG, path, device="cpu", hydra_overrides_extra=AT_512)
    peer.fill_hole_area = 0  # that takes a CUDA extension
    images = torch.cat([medsam2.model_input(frame(k)) for k in range(SLICES)])
    assert images.shape == (SLICES, 3, 512, 512)
    monkeypatch.setattr("sam2.sam2_video_predictor.load_video_frames", lambda **_: (images, SIDE, SIDE))
    state = peer.init_state("not read")
    peer.add_new_points_or_box(state, 0, obj_id=1, box=MARKED.box)
    theirs = {k: logits[0, 0].numpy() for k, _, logits in peer.propagate_in_video(state)}
    result = propagate_by_memory(medsam2, frame, VolumePrompts({0: MARKED}, {}, range(SLICES)))
    assert list(result.found) == list(theirs) == list(range(SLICES))
    for k, found in result.found.items():
        mask = theirs[k] > 0
        np.testing.assert_allclose(found.logits, theirs[k], atol=5e-4, rtol=1e-3, err_msg=f"slice {k}")  # float16
        assert (found.mask & mask).sum() >= 0.999 * (found.mask | mask).sum()
        assert 0 < mask.mean() < 1

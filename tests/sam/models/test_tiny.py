"""The architecture of ``sam_tiny``, and the checkpoint that is shipped."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from segment_anything.modeling import MaskDecoder, PromptEncoder

from lib.sam.models import tiny
from lib.sam.models.checkpoints import CheckpointError, CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.models.tiny_decoder import QualityHead

CHECKPOINT = Path(__file__).resolve().parents[3] / "apps" / "sam_app" / "model" / "sam_tiny.safetensors"
SIDE = tiny.TinyConfig().img_size


@pytest.fixture(scope="module")
def shipped() -> tiny.SamTiny:
    model = tiny.SamTiny()
    CheckpointStore(CHECKPOINT.parent).load_into(model, MODELS["sam_tiny"])
    return model.eval()


@pytest.fixture(scope="module")
def embedding(shipped: tiny.SamTiny) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.inference_mode():
        return shipped.image_encoder(torch.randn(1, 3, SIDE, SIDE))


def decode(model, embedding, *, points=None, boxes=None, masks=None, multimask=False):
    sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=masks)
    with torch.inference_mode():
        return model.mask_decoder(
            image_embeddings=embedding,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )


def some_points(batch: int, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.ones(batch, count, dtype=torch.int)
    labels[:, 1:] = 0
    return torch.rand(batch, count, 2, generator=generator) * (SIDE - 1), labels


def test_interfaces_take_the_arguments_of_segment_anything():
    for ours, theirs in ((tiny.PromptEncoder, PromptEncoder), (tiny.MaskDecoder, MaskDecoder)):
        assert list(inspect.signature(ours.forward).parameters) == list(inspect.signature(theirs.forward).parameters)


def test_shapes(shipped, embedding):
    channels = shipped.config.embed_dim
    assert shipped.img_size == shipped.image_encoder.img_size == SIDE == 512
    assert embedding.shape == (1, channels, 64, 64)
    assert shipped.prompt_encoder.get_dense_pe().shape == (1, channels, 64, 64)
    assert shipped.prompt_encoder.mask_input_size == (256, 256)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 80.0]] * 3)
    sparse, dense = shipped.prompt_encoder(points=some_points(3), boxes=boxes, masks=torch.zeros(3, 1, 256, 256))
    assert sparse.shape == (3, 4, channels) and dense.shape == (3, channels, 64, 64)
    for multimask, count in ((False, 1), (True, 3)):
        masks, quality = decode(shipped, embedding, points=some_points(3), boxes=boxes, multimask=multimask)
        assert masks.shape == (3, count, 256, 256) and quality.shape == (3, count)
        assert ((quality >= 0) & (quality <= 1)).all()


def test_a_batch_of_prompts_is_answered_as_one_by_one(shipped, embedding):
    coords, labels = some_points(4, 3)
    boxes = torch.tensor([[10.0, 20, 90, 80], [0, 0, 255, 255], [100, 30, 120, 60], [5.5, 6.5, 200, 31]])
    together, quality = decode(shipped, embedding, points=(coords, labels), boxes=boxes, multimask=True)
    for i in range(4):
        one = slice(i, i + 1)
        alone, its_quality = decode(
            shipped, embedding, points=(coords[one], labels[one]), boxes=boxes[one], multimask=True
        )
        torch.testing.assert_close(alone, together[one], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(its_quality, quality[one], rtol=1e-3, atol=1e-3)


def test_embeddings_of_several_images_take_their_share_of_the_prompts(shipped):
    torch.manual_seed(1)
    with torch.inference_mode():
        embeddings = shipped.image_encoder(torch.randn(2, 3, SIDE, SIDE))
    boxes = torch.tensor([[10.0, 20, 90, 80], [100, 30, 120, 60], [30, 30, 99, 99], [1, 2, 30, 40]])
    together, _ = decode(shipped, embeddings, boxes=boxes)
    second, _ = decode(shipped, embeddings[1:], boxes=boxes[2:])
    torch.testing.assert_close(together[2:], second, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="shared evenly"):
        decode(shipped, embeddings, boxes=boxes[:3])


def test_padding_and_absent_prompts_change_nothing(shipped, embedding):
    coords, labels = some_points(2)
    plain, _ = decode(shipped, embedding, points=(coords, labels))
    padded = (
        torch.cat([coords, torch.full((2, 1, 2), 77.0)], 1),
        torch.cat([labels, torch.full((2, 1), -1, dtype=torch.int)], 1),
    )
    nothing = torch.full((2, 4), torch.nan)
    same, _ = decode(shipped, embedding, points=padded, boxes=nothing, masks=torch.zeros(2, 1, 256, 256))
    torch.testing.assert_close(same, plain, rtol=1e-3, atol=1e-3)


def test_an_earlier_answer_is_taken_into_account(shipped, embedding):
    boxes = torch.tensor([[10.0, 20, 90, 80]])
    first, _ = decode(shipped, embedding, boxes=boxes)
    second, _ = decode(shipped, embedding, boxes=boxes, masks=-first)
    assert not torch.allclose(first, second)


def test_prompts_that_do_not_fit_are_refused(shipped):
    encoder = shipped.prompt_encoder
    with pytest.raises(ValueError, match="at least one"):
        encoder(None, None, None)
    with pytest.raises(ValueError, match="batch size"):
        encoder(some_points(2), torch.zeros(3, 4), None)
    with pytest.raises(ValueError, match="boxes must be"):
        encoder(None, torch.zeros(3, 2, 2), None)
    with pytest.raises(ValueError, match="masks must be"):
        encoder(None, None, torch.zeros(3, 256, 256))
    with pytest.raises(ValueError, match="points must be"):
        encoder((torch.zeros(1, 2, 2), torch.zeros(1, 3)), None, None)
    with pytest.raises(ValueError, match="expected images"):
        shipped.image_encoder(torch.zeros(1, 3, 256, SIDE))


def test_preprocessing_pads_right_and_bottom_with_zeros(shipped):
    x = shipped.preprocess(torch.full((3, 100, SIDE), 200.0))
    assert x.shape == (3, SIDE, SIDE)
    assert (x[:, 100:] == 0).all() and (x[:, :100] > 0).all()


def test_the_shipped_file_is_small_and_in_half_precision():
    assert CHECKPOINT.stat().st_size <= 16 * 2**20
    with safe_open(CHECKPOINT, framework="pt") as file:
        assert file.metadata()["architecture"] == "sam_tiny"
    assert {tensor.dtype for tensor in load_file(CHECKPOINT).values()} <= {torch.float16, torch.int64}


def test_weights_are_float32_in_memory(shipped):
    assert {parameter.dtype for parameter in shipped.parameters()} == {torch.float32}
    assert not shipped.training


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "garbage", "absent"])
def test_wrong_checkpoints_are_refused(tmp_path, fault):
    path = tmp_path / CHECKPOINT.name
    tensors = load_file(CHECKPOINT)
    name = "mask_decoder.film.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "unknown":
        tensors["extra"] = torch.zeros(1)
    elif fault == "shape":
        tensors[name] = tensors[name][:1].clone()
    if fault == "garbage":
        path.write_bytes(b"no checkpoint at all")
    elif fault != "absent":
        save_file(tensors, path, tiny.config_metadata(tiny.TinyConfig()))
    with pytest.raises(CheckpointError, match="sam_tiny"):
        CheckpointStore(tmp_path).load_into(tiny.SamTiny(), MODELS["sam_tiny"])


@pytest.mark.parametrize("side", [256, 768])
def test_another_input_has_the_same_embedding_size(side):
    model = tiny.SamTiny(tiny.TinyConfig(img_size=side)).eval()
    with torch.inference_mode():
        assert model.image_encoder(torch.zeros(1, 3, side, side)).shape == (1, model.config.embed_dim, 64, 64)
    with pytest.raises(ValueError, match="multiple of 256"):
        tiny.SamTiny(tiny.TinyConfig(img_size=300))


def test_the_rating_looks_at_the_mask_and_does_not_bend_it():
    torch.manual_seed(0)
    head = QualityHead(channels=8, dim=16)
    masks = torch.randn(2, 4, 256, 256, requires_grad=True)
    features = torch.randn(2, 8, 64, 64, requires_grad=True)
    tokens = torch.randn(2, 5, 16, requires_grad=True)
    rating = head(masks, features, tokens)
    assert rating.shape == (2, 4)
    rating.sum().backward()
    assert masks.grad is None and features.grad is None and tokens.grad is None
    assert all(parameter.grad is not None for parameter in head.parameters())
    changed = head(torch.cat([-masks[:, :1], masks[:, 1:]], 1), features, tokens)
    assert not torch.allclose(changed[:, 0], rating[:, 0])
    assert not torch.allclose(changed[:, 1:], rating[:, 1:]), "the others no longer agree with it as before"


@pytest.fixture(scope="module", params=[(256.0, 256.0, 80.0), (120.0, 340.0, 44.0)])
def phantom(request) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A grey disc on a darker, noisy ground, its mask, and its centre (x, y) and radius."""
    x, y, radius = request.param
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    mask = np.hypot(columns - x, rows - y) <= radius
    image = np.where(mask, 150.0, 80.0) + np.random.default_rng(0).normal(0, 6, mask.shape)
    return np.clip(image, 0, 255).astype(np.float32), mask, (x, y, radius)


def test_shipped_model_segments_a_disc(shipped, phantom):
    image, mask, (x, y, radius) = phantom
    with torch.inference_mode():
        embedding = shipped.image_encoder(shipped.preprocess(torch.from_numpy(image).expand(1, 3, -1, -1)))
    box = torch.tensor([[x - radius, y - radius, x + radius + 1, y + radius + 1]])
    answer = whole(decode(shipped, embedding, boxes=box)[0])
    assert 2 * (answer & mask).sum() / (answer.sum() + mask.sum()) >= 0.9
    point = (torch.tensor([[[x, y]]]), torch.ones(1, 1, dtype=torch.int))
    answer = whole(decode(shipped, embedding, points=point)[0])
    assert answer[int(y), int(x)]
    assert 2 * (answer & mask).sum() / (answer.sum() + mask.sum()) >= 0.5


def whole(logits: torch.Tensor) -> np.ndarray:
    """The first mask at the size of the input, (SIDE, SIDE) bool."""
    return (torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear")[0, 0] > 0).numpy()

"""The engine against ``segment_anything.SamPredictor``, with ViT-B and random weights, and with ``sam_tiny``.

The ViT-B is that of a smaller input: it has the same layers, and an encode takes a second instead of half a minute.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import PromptError, Prompts

VIT_B = replace(MODELS["sam_vit_b"], input_size=256)
SHAPES = {"square": (300, 300), "wide": (180, 400), "tall": (420, 150)}


def an_image(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth blobs with some noise, ``(H, W, 3)`` uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros((*shape, 3))
    for channel in range(3):
        frequency = rng.uniform(0.01, 0.06, 2)
        image[..., channel] = 127 + 100 * np.sin(frequency[0] * rows) * np.cos(frequency[1] * columns)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vit_b():
    torch.manual_seed(7)
    module = VIT_B.build().eval()
    for name, values in module.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero when new
            torch.nn.init.normal_(values, std=0.1)
    return module


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in SHAPES])
def pair(request, vit_b):
    """SamPredictor and Predictor with the same weights, an image set in both."""
    image = an_image(SHAPES[request.param])
    peer = SamPredictor(vit_b)
    peer.set_image(image)
    ours = Predictor(VIT_B, vit_b, checkpoint_sha256="random", cache=EmbeddingCache(1 << 28))
    return peer, ours, ours.encode(image), image.shape[:2]


def test_embedding_is_the_peers(pair):
    peer, _, embedding, _ = pair
    assert torch.equal(peer.get_image_embedding(), embedding.features)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["point", "points", "box", "box and points", "logits and point", "logits and box"])
def test_masks_scores_and_logits_are_the_peers(pair, kind, multimask):
    peer, ours, embedding, (height, width) = pair
    points = labels = box = logits = None
    if "point" in kind:
        points = np.array([[width * 0.4, height * 0.6], [width * 0.9 - 1, 3], [0, height - 1]])
        labels = np.array([1, 0, 1])
        if not kind.endswith("points"):
            points, labels = points[:1], labels[:1]
    if "box" in kind:
        box = np.array([width * 0.2, height * 0.1, width * 0.7, height * 0.9])
    if "logits" in kind:
        logits = np.random.default_rng(1).normal(0, 3, (1, 64, 64)).astype(np.float32)

    masks, scores, low_res = peer.predict(points, labels, box, logits, multimask_output=multimask)
    prompts = Prompts(
        points=() if points is None else points,
        labels=() if labels is None else labels,
        box=box,
        mask_logits=None if logits is None else logits[0],
    )
    (prediction,) = ours.decode(embedding, [prompts], multimask=multimask)

    best_first = np.argsort(-scores, kind="stable")
    assert prediction.masks.shape == (3 if multimask else 1, height, width)
    assert np.array_equal(prediction.masks, masks[best_first])
    np.testing.assert_allclose(prediction.low_res_logits, low_res[best_first], atol=1e-4)
    np.testing.assert_allclose(prediction.scores, scores[best_first], atol=1e-4)
    assert 0 < masks.mean() < 1, "an empty or full mask would show nothing"


def test_several_boxes_are_the_peers(pair):
    peer, ours, embedding, (height, width) = pair
    boxes = np.array([[5, 5, 60, 70], [20, 30, 100, 120], [40, 2, width - 1, height - 1]], dtype=np.float32)
    scaled = peer.transform.apply_boxes_torch(torch.as_tensor(boxes), (height, width))
    masks, scores, low_res = peer.predict_torch(None, None, scaled, multimask_output=False)
    predictions = ours.decode(embedding, [Prompts.from_clicks(box=box) for box in boxes])
    for index, prediction in enumerate(predictions):
        assert np.array_equal(prediction.masks, masks[index].numpy())
        np.testing.assert_allclose(prediction.low_res_logits, low_res[index].numpy(), atol=1e-4)
        np.testing.assert_allclose(prediction.scores, scores[index].numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def tiny():
    spec = MODELS["sam_tiny"]
    module = spec.build()
    CheckpointStore().load_into(module, spec)
    return Predictor(spec, module, checkpoint_sha256="tiny", cache=EmbeddingCache(1 << 28))


def test_an_image_is_encoded_once(tiny, disc):
    image, _ = disc
    before = tiny._cache.stats()
    first, second = tiny.encode(image), tiny.encode(image.copy())
    assert first is second
    after = tiny._cache.stats()
    assert (after["misses"] - before["misses"], after["hits"] - before["hits"]) == (1, 1)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(tiny, bad):
    with pytest.raises(ValueError, match="H, W, 3"):
        tiny.encode(bad)


def test_objects_of_different_forms_are_answered_in_their_order(tiny, disc):
    image, mask = disc
    embedding = tiny.encode(image)
    objects = [
        Prompts.from_clicks(box=[90, 50, 170, 130]),
        Prompts.from_clicks([[130, 90]]),
        Prompts.from_clicks(box=[10, 10, 60, 60]),
        Prompts.from_clicks([[130, 90]], [[20, 20]], box=[90, 50, 170, 130]),
    ]
    together = tiny.decode(embedding, objects)
    for prompts, prediction in zip(objects, together, strict=True):
        (alone,) = tiny.decode(embedding, [prompts])
        np.testing.assert_allclose(prediction.low_res_logits, alone.low_res_logits, atol=1e-3)
    intersection = (together[0].masks[0] & mask).sum()
    assert 2 * intersection / (together[0].masks[0].sum() + mask.sum()) > 0.8


def test_a_point_outside_the_image_is_refused(tiny, disc):
    with pytest.raises(PromptError, match="outside the image"):
        tiny.decode(tiny.encode(disc[0]), [Prompts.from_clicks([[500, 5]])])


def test_candidates_come_best_first(tiny, disc):
    (prediction,) = tiny.decode(tiny.encode(disc[0]), [Prompts.from_clicks([[130, 90]])], multimask=True)
    assert prediction.masks.shape == (3, 200, 240)
    assert np.all(np.diff(prediction.scores) <= 0)


@pytest.mark.slow
def test_requests_at_the_same_time_give_what_they_give_alone(tiny):
    """Eight threads, four images, each several times; every answer is bit for bit that of a lone request."""
    images = [an_image((120 + 10 * n, 160), seed=n) for n in range(4)]
    prompts = [Prompts.from_clicks([[40 + 5 * n, 60]], box=[10, 10, 100, 100]) for n in range(4)]

    def answer(n: int) -> np.ndarray:
        return tiny.decode(tiny.encode(images[n]), [prompts[n]])[0].low_res_logits

    alone = [answer(n) for n in range(4)]
    tiny._cache.__init__(1 << 28)  # so that the threads encode, too
    wrong: list[int] = []

    def client(first: int) -> None:
        for step in range(8):
            n = (first + step) % 4
            if not np.array_equal(answer(n), alone[n]):
                wrong.append(n)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_medsam_sees_the_stretched_image_between_0_and_1(vit_b):
    ours = Predictor(MODELS["medsam_vit_b"], vit_b, checkpoint_sha256="random", cache=EmbeddingCache(0))
    tensor = ours.preprocessor.image(an_image((100, 300)))
    assert tensor.shape == (1, 3, 256, 256)
    assert (float(tensor.min()), float(tensor.max())) == (0.0, 1.0)
    corners = ours.preprocessor.coordinates(np.array([[0.0, 0.0], [300.0, 100.0], [150.0, 25.0]]), (100, 300))
    assert corners.tolist() == [[0, 0], [256, 256], [128, 64]]
    low_res = torch.full((1, 1, 64, 64), -9.0)
    low_res[..., 16:32, 32:48] = 9.0
    mask = ours.masks(low_res, (100, 300))[0, 0].numpy()
    assert mask.shape == (100, 300)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 49, 150, 224)

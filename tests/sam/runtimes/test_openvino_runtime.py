"""OpenVINO against ``segment_anything`` in PyTorch: the same weights, the same image, the same masks."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from lib.base.clock import Clock, PreemptedError, use_clock
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.checksums import ChecksumFile, ChecksumRecord, Digests, FileStamp
from lib.sam.models.registry import MODELS, ModelSpec
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b)))


def noise(seed: int, size: tuple[int, int] = (320, 400)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_checkpoint(folder: Path, spec: ModelSpec) -> Path:
    """Random weights and positions, entered as verified: no such file has Meta's checksum."""
    torch.manual_seed(0)
    module: Any = spec.build()
    for name, values in module.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(values, std=0.1)
    path = folder / spec.checkpoint
    torch.save(module.state_dict(), path)
    record = ChecksumRecord(Digests.of(path), verified=FileStamp.of(path))
    ChecksumFile(folder / "checksums.json").put(path.name, record)
    return path


SMALLER_INPUT = replace(MODELS["sam_vit_b"], input_size=512)
"""All of ViT-B's layers in a tenth of the time."""


@pytest.fixture(params=[SMALLER_INPUT, pytest.param(MODELS["sam_vit_b"], marks=pytest.mark.long)], ids=["512", "1024"])
def vit_b(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Predictor, SamPredictor]]:
    """The engine's predictor, and segment_anything's with the same file."""
    spec: ModelSpec = request.param
    checkpoint = write_checkpoint(tmp_path, spec)
    module: Any = spec.build()
    module.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)
    yield Engine([spec], tmp_path, device="cpu", precision="float32").predictor(spec.name), SamPredictor(module)
    checkpoint.unlink()


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", precision="float32").predictor("sam_tiny")


@pytest.mark.slow
def test_vit_b_s_embedding_and_masks_are_segment_anything_s(vit_b: tuple[Predictor, SamPredictor]):
    ours, peer = vit_b
    assert isinstance(ours.runtime, OpenVinoRuntime)
    image = noise(3)
    peer.set_image(image)
    gives_way_within_a_moment(ours)
    embedding = ours.encode(image)
    theirs = peer.get_image_embedding()
    assert float((embedding.features - theirs).norm() / theirs.norm()) <= 1e-4

    points, box = [[100.0, 80.0], [300.0, 200.0]], [60.0, 50.0, 280.0, 260.0]
    cases = [
        (Prompts.from_clicks(points[:1]), {"point_coords": np.array(points[:1]), "point_labels": np.array([1])}),
        (
            Prompts.from_clicks(points[:1], points[1:]),
            {"point_coords": np.array(points), "point_labels": np.array([1, 0])},
        ),
        (Prompts.from_clicks(box=box), {"box": np.array(box)}),
        (
            Prompts.from_clicks(points[:1], box=box),
            {"point_coords": np.array(points[:1]), "point_labels": np.array([1]), "box": np.array(box)},
        ),
    ]
    for multimask in (False, True):
        for prompts, peers in cases:
            [answer] = ours.decode(embedding, [prompts], multimask=multimask)
            masks, scores, logits = peer.predict(**peers, multimask_output=multimask)
            order = np.argsort(-scores, kind="stable")
            assert min(iou(a, b) for a, b in zip(answer.masks, masks[order], strict=True)) >= 0.999
            np.testing.assert_allclose(answer.scores, scores[order], atol=1e-4)
            assert np.linalg.norm(answer.low_res_logits - logits[order]) / np.linalg.norm(logits) <= 1e-4


def gives_way_within_a_moment(predictor: Predictor) -> None:
    """An encode that was begun ahead of its use, and is not needed any more; the next one must be whole."""
    inputs = predictor.model_input(noise(4))
    started = time.monotonic()
    predictor.runtime.encode(inputs)
    whole = time.monotonic() - started
    stopped_at: list[float] = []

    def should_stop() -> bool:
        if time.monotonic() - started > whole / 10:
            stopped_at.append(time.monotonic())
        return bool(stopped_at)

    started = time.monotonic()
    with pytest.raises(PreemptedError):
        predictor.runtime.encode(inputs, should_stop)
    assert time.monotonic() - stopped_at[0] < whole / 2, "it went on to its end"


def test_objects_together_are_the_same_as_one_by_one(tiny: Predictor, disc):
    image, _ = disc
    embedding = tiny.encode(image)
    objects = [Prompts.from_clicks([[float(x), 90.0]]) for x in range(60, 200, 10)]
    together = tiny.decode(embedding, objects)
    for prompts, answer in zip(objects, together, strict=True):
        [alone] = tiny.decode(embedding, [prompts])
        np.testing.assert_allclose(answer.low_res_logits, alone.low_res_logits, atol=2e-4)
        assert iou(answer.masks[0], alone.masks[0]) >= 0.999


def test_decodes_of_many_threads_do_not_mix(tiny: Predictor, disc):
    image, _ = disc
    embedding = tiny.encode(image)
    prompts = [Prompts.from_clicks([[float(x), float(y)]]) for x, y in ((130, 90), (40, 40), (200, 150), (131, 60))]
    alone = [tiny.decode(embedding, [each])[0].low_res_logits for each in prompts]
    wrong: list[int] = []

    def again(index: int) -> None:
        for _ in range(5):
            answer = tiny.decode(embedding, [prompts[index]])[0].low_res_logits
            if not np.array_equal(answer, alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=again, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_a_slice_that_was_encoded_ahead_needs_no_encode(tiny: Predictor):
    ahead, cold = noise(11), noise(12)
    tiny.prefetch_embedding("somebody", [lambda: None, lambda: ahead])
    deadline = time.monotonic() + 30
    while tiny._queue.stats()["ahead"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for image, stages in ((ahead, set()), (cold, {"wait", "encode"})):
        with use_clock(Clock()) as clock:
            tiny.encode(image)
        assert set(clock.stages) == stages


def test_a_click_on_what_is_being_encoded_ahead_joins_it(tiny: Predictor, monkeypatch: pytest.MonkeyPatch):
    image = noise(13)
    encodes: list[int] = []
    real, begun = tiny.runtime.encode, threading.Event()

    def slow(inputs, should_stop=lambda: False):
        encodes.append(1)
        begun.set()
        time.sleep(0.3)
        if should_stop():
            raise PreemptedError
        return real(inputs, should_stop)

    monkeypatch.setattr(tiny.runtime, "encode", slow)
    tiny.prefetch_embedding("somebody", [lambda: image])
    assert begun.wait(10)
    tiny.encode(image)
    assert len(encodes) == 1

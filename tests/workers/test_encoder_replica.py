"""What runs in a worker, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.clock import PreemptedError
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.version import VERSION
from lib.workers import encoder_replica
from lib.workers.encoder_replica import DONE, REFUSED, Answer, EncoderReplica


@pytest.fixture(scope="module")
def local() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


@pytest.fixture(autouse=True)
def _threads_of_this_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_replica, "limit_threads", lambda count: None)


@pytest.fixture
def replica() -> EncoderReplica:
    return EncoderReplica([MODELS["sam_tiny"]], None, None, 1)


def call(replica: EncoderReplica, local: Predictor, image: np.ndarray, **other: str) -> Answer:
    known = {"version": VERSION, "model": "sam_tiny", "runtime": local.runtime.key}
    known["checkpoint_sha256"] = local.checkpoint_sha256
    inputs = local.model_input(image).numpy()
    inputs.flags.writeable = False  # as Ray hands it over
    return asyncio.run(replica.encode(**{**known, **other}, inputs=inputs))


def test_it_encodes_as_the_server_itself(replica, local, disc):
    kind, levels = call(replica, local, disc[0])
    assert kind == DONE
    expected = local.runtime.encode(local.model_input(disc[0]))
    assert len(levels) == len(expected) == 1
    assert levels[0].flags.c_contiguous
    assert np.array_equal(levels[0], expected[0].permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"version": "9.9.9"}, "and this server 9.9.9: install one version on both"),
        ({"checkpoint_sha256": "0" * 64}, "has other weights of sam_tiny than this server"),
        ({"runtime": "openvino 1 int8"}, "and this server on openvino 1 int8: choose one for all"),
        ({"model": "sam_vit_h"}, "does not offer sam_vit_h"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_it_refuses_whoever_has_something_else(replica, local, disc, other, reason):
    kind, said = call(replica, local, disc[0], **other)
    assert kind == REFUSED
    assert reason in said


def test_without_its_checkpoint_it_starts_and_says_so_to_whoever_asks(local, disc, tmp_path: Path):
    kind, said = call(EncoderReplica([MODELS["sam_tiny"]], str(tmp_path), None, 1), local, disc[0])
    assert kind == REFUSED
    assert said.startswith("cannot load sam_tiny: sam_tiny has no checkpoint")


def test_a_cancelled_call_stops_its_encode_and_ends_after_it(replica, local, disc, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def encode(inputs: torch.Tensor, should_stop) -> None:
        begun.set()
        deadline = time.monotonic() + 10
        while not should_stop():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        ended.set()
        raise PreemptedError

    monkeypatch.setattr(replica._engine.published("sam_tiny").runtime, "encode", encode)
    inputs = local.model_input(disc[0]).numpy()

    async def cancelled() -> None:
        arguments = VERSION, "sam_tiny", local.checkpoint_sha256, local.runtime.key, inputs
        asked = asyncio.ensure_future(replica.encode(*arguments))
        await asyncio.to_thread(begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert ended.is_set(), "the worker would be taken for free while it still encodes"

    asyncio.run(cancelled())

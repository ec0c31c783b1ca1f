"""What runs in a worker, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.requests import Request
from starlette.responses import Response

from lib.base.clock import PreemptedError
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.version import VERSION
from lib.workers import encoder_replica, wire
from lib.workers.encoder_replica import EncoderReplica

TOKEN = "secret"


@pytest.fixture(scope="module")
def local() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


@pytest.fixture(autouse=True)
def _threads_of_this_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_replica, "limit_threads", lambda count: None)


@pytest.fixture
def replica() -> EncoderReplica:
    return EncoderReplica([MODELS["sam_tiny"]], None, None, 1, TOKEN)


def request(headers: dict[str, str], body: bytes) -> Request:
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": wire.PATH, "headers": raw}, receive)


def packed(local: Predictor, image: np.ndarray, **other: str) -> tuple[dict[str, str], bytes]:
    known = {"model": "sam_tiny", "runtime": local.runtime.key, "checkpoint_sha256": local.checkpoint_sha256}
    headers, body = wire.pack_request(**{**known, **other}, image=image)
    return {"Authorization": wire.authorization(TOKEN), **headers}, body


def call(replica: EncoderReplica, local: Predictor, image: np.ndarray, **other: str) -> Response:
    return asyncio.run(replica.answer(request(*packed(local, image, **other))))


def test_it_encodes_as_the_server_itself(replica, local, disc):
    answer = call(replica, local, disc[0])
    assert answer.status_code == 200
    levels = wire.unpack_levels(answer.headers, answer.body)
    expected = local.runtime.encode(local.model_input(disc[0]))
    assert len(levels) == len(expected) == 1
    assert np.array_equal(levels[0], expected[0].permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"checkpoint_sha256": "0" * 64}, "has other weights of sam_tiny than this server"),
        ({"runtime": "openvino 1 int8"}, "and this server on openvino 1 int8: choose one for all"),
        ({"model": "sam_vit_h"}, "does not offer sam_vit_h"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_it_refuses_whoever_has_something_else(replica, local, disc, other, reason):
    answer = call(replica, local, disc[0], **other)
    assert answer.status_code == 409
    assert reason in answer.body.decode()


def test_it_refuses_a_server_of_another_version(replica, local, disc, monkeypatch):
    monkeypatch.setattr(wire, "VERSION", "9.9.9")
    answer = call(replica, local, disc[0])
    assert answer.status_code == 409
    assert answer.body.decode() == (
        f"runs version {VERSION} of the app, and this server 9.9.9: install one version on both"
    )


def test_it_refuses_whoever_has_no_token_before_it_reads_anything(replica, local, disc):
    headers, body = packed(local, disc[0])
    for given in ("", "Bearer other", f"Bearer {TOKEN}é"):
        answer = asyncio.run(replica.answer(request({**headers, "Authorization": given}, body)))
        assert answer.status_code == 401
        assert answer.body.decode() == "this worker is another server's: the token is wrong"


def test_what_is_no_request_is_refused(replica, local, disc):
    headers, body = packed(local, disc[0])
    wrong = [({**headers, wire.ENCODE: "{"}, body), ({**headers, wire.ENCODE: "[]"}, body), (headers, body[:-1])]
    for parts in wrong:
        answer = asyncio.run(replica.answer(request(*parts)))
        assert answer.status_code == 409
        assert answer.body.decode().startswith("no request of this version")


def test_without_its_checkpoint_it_starts_and_says_so_to_whoever_asks(local, disc, tmp_path: Path):
    answer = call(EncoderReplica([MODELS["sam_tiny"]], str(tmp_path), None, 1, TOKEN), local, disc[0])
    assert answer.status_code == 409
    assert answer.body.decode().startswith("cannot load sam_tiny: sam_tiny has no checkpoint")


def test_an_encode_that_fails_says_so(replica, local, disc, monkeypatch):
    def fail(inputs: torch.Tensor, should_stop) -> None:
        raise MemoryError

    monkeypatch.setattr(replica._engine.published("sam_tiny").runtime, "encode", fail)
    answer = call(replica, local, disc[0])
    assert (answer.status_code, answer.body.decode()) == (422, "failed at the image: MemoryError")


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

    async def cancelled() -> None:
        asked = asyncio.ensure_future(replica.answer(request(*packed(local, disc[0]))))
        await asyncio.to_thread(begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert ended.is_set(), "the worker would be taken for free while it still encodes"

    asyncio.run(cancelled())

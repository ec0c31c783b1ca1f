"""Encoding by workers, as the predictor and the queue see it; the workers here are made for the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lib.base.clock import ClientDisconnectedError, Clock, PreemptedError, TimeLimitError, use_clock
from lib.sam import predictor as predictor_module
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.remote import EncodeOrder, RemoteEncoder, WorkerDiedError, WorkersUnavailableError
from support.made_workers import EncodesHere, MadeWorkers

ORDER = EncodeOrder("sam_tiny", "ab" * 32, "openvino", np.zeros((8, 8, 3), np.uint8))
LEVELS = [np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), np.ones((1, 4, 6, 2), np.float32)]
DIED = WorkerDiedError("ended")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def test_the_levels_come_back_in_the_layout_of_the_local_encoder():
    levels = MadeWorkers(LEVELS).encode(ORDER)
    assert [tuple(level.shape) for level in levels] == [(1, 4, 2, 3), (1, 2, 4, 6)]
    for level, sent in zip(levels, LEVELS, strict=True):
        assert level.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(level.permute(0, 2, 3, 1), sent)
        assert not np.shares_memory(level.numpy(), sent), "the workers' shared memory would stay taken"


def test_a_worker_that_ends_costs_one_more_try():
    workers = MadeWorkers(DIED, LEVELS)
    assert len(workers.encode(ORDER)) == 2
    assert len(workers.begun) == 2
    counts = workers.stats()
    assert (counts["done"], counts["repeated"], counts["failed"]) == (1, 1, 0)
    assert counts["seconds"] > 0


def test_the_tries_are_bounded():
    workers = MadeWorkers(DIED, DIED, LEVELS)
    with pytest.raises(WorkersUnavailableError, match=r"2 workers ended while they encoded the image.*try again"):
        workers.encode(ORDER)
    assert len(workers.begun) == 2
    assert workers.stats()["failed"] == 1


def test_without_workers_nothing_is_waited_for():
    workers = MadeWorkers(running=0)
    with pytest.raises(WorkersUnavailableError, match="none of the 2 workers that encode images is there"):
        workers.encode(ORDER)
    assert workers.begun == []


def test_who_waits_is_told_when_the_last_worker_is_gone():
    workers = MadeWorkers(None)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(workers.encode, ORDER)
        wait_for(lambda: workers.begun)
        workers.now = 0
        with pytest.raises(WorkersUnavailableError, match="none of the 2"):
            waits.result(10)
    assert workers.begun[0].is_cancelled


def test_an_encode_that_must_stop_is_stopped_there_too():
    workers = MadeWorkers(None)
    with pytest.raises(PreemptedError):
        workers.encode(ORDER, lambda: True)
    assert workers.begun[0].is_cancelled
    assert workers.stats()["failed"] == 0


def test_a_refusal_is_told_and_not_tried_again():
    workers = MadeWorkers(WorkersUnavailableError("a worker runs version 9"), LEVELS)
    with pytest.raises(WorkersUnavailableError, match="a worker runs version 9"):
        workers.encode(ORDER)
    assert len(workers.begun) == 1


@pytest.fixture(scope="module")
def local() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")


def test_an_engine_with_workers_encodes_there_once_and_decodes_here(local, disc):
    image, _ = disc
    workers = EncodesHere(local)
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", workers=workers)
    remote = engine.predictor("sam_tiny")
    prompts = [Prompts(points=np.array([[130.0, 90.0]]), labels=np.array([1]))]
    ours, theirs = (one.decode(one.encode(image), prompts)[0] for one in (remote, local))
    remote.decode(remote.encode(image), prompts)
    (order,) = workers.orders
    assert (order.model, order.runtime) == ("sam_tiny", local.runtime.key)
    assert order.checkpoint_sha256 == local.checkpoint_sha256
    assert np.array_equal(ours.masks, theirs.masks)
    assert np.array_equal(ours.low_res_logits, theirs.low_res_logits)


@pytest.fixture
def waiting(local: Predictor) -> tuple[Predictor, MadeWorkers]:
    """A predictor whose only worker never answers."""
    workers = MadeWorkers(None, running=1)
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", workers=workers)
    encoder = RemoteEncoder(workers, "sam_tiny", local.checkpoint_sha256, local.runtime.key)
    return engine.predictor("sam_tiny").with_workers(encoder, engine.encodes), workers


def test_the_time_limit_holds_while_a_worker_is_waited_for(waiting, disc):
    predictor, workers = waiting
    began = time.monotonic()
    with use_clock(Clock(0.3)), pytest.raises(TimeLimitError, match="timed out"):
        predictor.encode(disc[0])
    assert time.monotonic() - began < 5
    assert workers.begun[0].is_cancelled


def test_a_client_that_leaves_is_not_waited_for(waiting, disc):
    predictor, workers = waiting
    clock = Clock(60)
    threading.Timer(0.2, clock.cancel).start()
    with use_clock(clock), pytest.raises(ClientDisconnectedError):
        predictor.encode(disc[0])
    assert workers.begun[0].is_cancelled


def test_work_ahead_is_left_without_a_word_when_there_is_no_worker(local, disc, caplog):
    workers = MadeWorkers(running=0)
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", workers=workers)
    engine.predictor("sam_tiny").prefetch_embedding("ann", [lambda: disc[0]])
    wait_for(lambda: engine.encodes.stats()["ahead"] == 0)
    assert workers.stats()["failed"] == 1
    assert "failed and goes on" not in caplog.text


def test_what_gives_way_is_tried_again_until_there_is_a_worker(local, disc, monkeypatch):
    monkeypatch.setattr(predictor_module, "_TRY_AGAIN_AFTER_S", 0.05)
    workers = EncodesHere(local)
    workers.now = 0
    remote = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", workers=workers).predictor("sam_tiny")
    with pytest.raises(WorkersUnavailableError):
        remote.encode(disc[0])
    with use_clock(Clock(0.3, gives_way=True)), pytest.raises(WorkersUnavailableError):
        remote.encode(disc[0])
    assert workers.stats()["failed"] > 3

    def start() -> None:
        workers.now = 2

    threading.Timer(0.3, start).start()
    with use_clock(Clock(60, gives_way=True)):
        assert remote.encode(disc[0]).image_size == disc[0].shape[:2]

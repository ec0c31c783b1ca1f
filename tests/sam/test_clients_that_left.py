"""What becomes of an encode whose client leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lib.base.clock import ClientDisconnectedError, Clock, PreemptedError, use_clock
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from support.server_process import SAM_APP

IMAGE = np.zeros((64, 64, 3), np.uint8)


class SlowRuntime:
    """Encodes for two seconds unless it is stopped."""

    key, name, decode_batch = "slow", "slow", 4

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.encodes = 0

    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool]) -> tuple[torch.Tensor, ...]:
        self.encodes += 1
        self.begun.set()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if should_stop():
                raise PreemptedError
            time.sleep(0.01)
        return (torch.zeros(1, 256, 64, 64),)


@pytest.fixture
def slow() -> tuple[Predictor, SlowRuntime]:
    spec = MODELS["sam_tiny"]
    module = spec.build()
    CheckpointStore(SAM_APP / "model").load_into(module, spec)
    runtime = SlowRuntime()
    cache = EmbeddingCache(1 << 28)
    return Predictor(spec, module, checkpoint_sha256="x", cache=cache, runtime=runtime), runtime


def _encode(predictor: Predictor, clock: Clock):
    with use_clock(clock):
        return predictor.encode(IMAGE)


def test_an_encode_ends_when_its_client_leaves(slow):
    predictor, runtime = slow
    clock = Clock(60)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_encode, predictor, clock)
        assert runtime.begun.wait(10)
        left = time.monotonic()
        clock.cancel()
        with pytest.raises(ClientDisconnectedError):
            asked.result(10)
        assert time.monotonic() - left < 1


def test_an_encode_that_another_waits_for_goes_on(slow):
    predictor, runtime = slow
    leaving, staying = Clock(60), Clock(60)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_encode, predictor, leaving)
        assert runtime.begun.wait(10)
        second = pool.submit(_encode, predictor, staying)
        time.sleep(0.3)
        leaving.cancel()
        assert second.result(10).features.shape == (1, 256, 64, 64)
        first.result(10)
    assert runtime.encodes == 1


def test_an_encode_of_a_batch_gives_way_to_a_click_on_another_image(slow):
    predictor, runtime = slow
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_encode, predictor, Clock(60, gives_way=True))
        assert runtime.begun.wait(10)
        began = time.monotonic()
        predictor.encode(IMAGE + 1)
        assert time.monotonic() - began < 3, "it did not wait for the other's two seconds"
        assert asked.result(10).features.shape == (1, 256, 64, 64)
    assert runtime.encodes == 3


def test_a_click_on_the_image_that_a_batch_encodes_gets_that_embedding(slow):
    predictor, runtime = slow
    with ThreadPoolExecutor(3) as pool:
        asked = pool.submit(_encode, predictor, Clock(60, gives_way=True))
        assert runtime.begun.wait(10)
        same = pool.submit(_encode, predictor, Clock(60))
        time.sleep(0.2)
        other = pool.submit(predictor.encode, IMAGE + 1)
        assert same.result(10) is asked.result(10)
        assert not other.done(), "it came after the click that was there before it"
    assert runtime.encodes == 2


def test_a_click_on_an_image_that_waits_in_a_batch_does_not_wait_for_the_batch(slow):
    predictor, runtime = slow
    done = []

    def encode(image: np.ndarray, name: str, clock: Clock) -> None:
        with use_clock(clock):
            predictor.encode(image)
        done.append(name)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(encode, IMAGE + 1, "click", Clock())
        assert runtime.begun.wait(10)
        pool.submit(encode, IMAGE + 2, "another of the batch", Clock(gives_way=True))
        time.sleep(0.1)
        pool.submit(encode, IMAGE, "of the batch", Clock(gives_way=True))
        time.sleep(0.1)
        pool.submit(encode, IMAGE, "click on it", Clock())
    assert done[0] == "click" and done[3] == "another of the batch"
    assert runtime.encodes == 3


def test_a_batch_that_waits_for_a_prefetch_does_not_keep_it_from_giving_way(slow):
    predictor, runtime = slow
    predictor.prefetch_embedding("ann", [lambda: IMAGE])
    assert runtime.begun.wait(10)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_encode, predictor, Clock(60, gives_way=True))
        time.sleep(0.1)
        began = time.monotonic()
        predictor.encode(IMAGE + 1)
        assert time.monotonic() - began < 3
        asked.result(10)

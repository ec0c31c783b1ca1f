import threading
import time

import numpy as np
import pytest
import torch

from lib.base.clock import PreemptedError
from lib.sam.embeddings.cache import Embedding, EmbeddingCache, embedding_key


def an_embedding(key: str, kilobytes: int = 1) -> Embedding:
    return Embedding(features=torch.zeros(1, kilobytes * 256), image_size=(1, 1), key=key)


def test_key_depends_on_pixels_shape_and_model():
    image = np.zeros((4, 6, 3), np.uint8)
    brighter = image.copy()
    brighter[3, 5, 2] = 1
    keys = {
        embedding_key(image, "a"),
        embedding_key(image, "b"),
        embedding_key(brighter, "a"),
        embedding_key(image.reshape(6, 4, 3), "a"),
    }
    assert len(keys) == 4
    assert embedding_key(image[:, ::-1], "a") == embedding_key(image[:, ::-1].copy(), "a")


def test_least_recently_used_goes_first():
    cache = EmbeddingCache(max_bytes=2048)
    for key in ("a", "b", "a", "c"):
        cache.get_or_compute(key, lambda key=key: an_embedding(key))
    computed = []
    for key in ("a", "c", "b"):
        cache.get_or_compute(key, lambda key=key: computed.append(key) or an_embedding(key))
    assert computed == ["b"]
    assert cache.stats()["bytes"] == 2048


def test_zero_bytes_keep_nothing():
    cache = EmbeddingCache(max_bytes=0)
    cache.get_or_compute("a", lambda: an_embedding("a"))
    assert cache.stats() == {"hits": 0, "misses": 1, "entries": 0, "bytes": 0}


def test_concurrent_requests_for_one_key_compute_once_and_do_not_block_others():
    cache = EmbeddingCache(max_bytes=1 << 20)
    computing, finish = threading.Event(), threading.Event()
    computed: list[str] = []

    def slow() -> Embedding:
        computed.append("slow")
        computing.set()
        assert finish.wait(10)
        return an_embedding("slow")

    answers: list[Embedding] = []
    threads = [threading.Thread(target=lambda: answers.append(cache.get_or_compute("slow", slow))) for _ in range(5)]
    threads[0].start()
    assert computing.wait(10)
    for thread in threads[1:]:
        thread.start()
    assert cache.get_or_compute("other", lambda: an_embedding("other")).key == "other"
    time.sleep(0.05)
    assert answers == []
    finish.set()
    for thread in threads:
        thread.join(10)
    assert computed == ["slow"]
    assert len(answers) == 5 and len({id(answer) for answer in answers}) == 1


def test_a_failure_reaches_the_caller_and_is_not_kept():
    cache = EmbeddingCache(max_bytes=1 << 20)

    def fail() -> Embedding:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cache.get_or_compute("a", fail)
    assert cache.get_or_compute("a", lambda: an_embedding("a")).key == "a"


def test_computing_ahead_neither_waits_nor_computes_what_is_kept_or_being_computed():
    cache = EmbeddingCache(max_bytes=1 << 20)
    computed: list[str] = []
    cache.prefetch("a", lambda: computed.append("a") or an_embedding("a"))
    cache.prefetch("a", lambda: computed.append("again") or an_embedding("a"))

    def inside() -> Embedding:
        cache.prefetch("b", lambda: computed.append("within") or an_embedding("b"))
        return an_embedding("b")

    cache.get_or_compute("b", inside)
    cache.get_or_compute("a", lambda: computed.append("once more") or an_embedding("a"))
    assert computed == ["a"]


def test_who_waits_for_what_gave_way_computes_it_themselves():
    cache = EmbeddingCache(max_bytes=1 << 20)
    begun = threading.Event()

    def gives_way() -> Embedding:
        begun.set()
        deadline = time.monotonic() + 10
        while not cache.is_awaited("a"):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        raise PreemptedError

    def ahead() -> None:
        with pytest.raises(PreemptedError):
            cache.prefetch("a", gives_way)

    thread = threading.Thread(target=ahead)
    thread.start()
    assert begun.wait(10)
    assert not cache.is_awaited("a")
    mine = an_embedding("a")
    assert cache.get_or_compute("a", lambda: mine) is mine
    thread.join(10)
    assert not cache.is_awaited("a")

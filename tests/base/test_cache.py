"""Values kept up to a number of bytes, each made once however many ask at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.base.cache import ByteBoundedCache
from lib.base.clock import Clock, PreemptedError, TimeLimitError, use_clock


def a_cache(max_bytes: int = 10) -> ByteBoundedCache[str, str]:
    """Of texts, a byte a character."""
    return ByteBoundedCache(max_bytes, len)


def keep(cache: ByteBoundedCache[str, str], *values: str) -> list[str]:
    """Ask for values by themselves as keys; those that had to be made."""
    made: list[str] = []
    for value in values:
        assert cache.get_or_compute(value, lambda value=value: made.append(value) or value) == value
    return made


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_least_recently_used_go_when_all_are_too_large_together():
    cache = a_cache()
    assert keep(cache, "aaaa", "bbbb", "aaaa", "cccc") == ["aaaa", "bbbb", "cccc"]
    assert keep(cache, "aaaa", "cccc") == []
    assert cache.stats() == {"hits": 3, "misses": 3, "entries": 2, "bytes": 8}
    assert keep(cache, "bbbb") == ["bbbb"]


def test_what_is_larger_than_all_may_be_is_returned_and_not_kept():
    cache = a_cache()
    assert keep(cache, "b" * 11, "b" * 11) == ["b" * 11, "b" * 11]
    assert cache.stats()["bytes"] == 0


def test_what_is_useless_is_dropped_and_looking_at_the_others_is_no_use_of_them():
    cache = a_cache()
    keep(cache, "aaaa", "bbb", "aaaa", "ccc")
    cache.drop(lambda value: value == "ccc")
    assert cache.stats()["bytes"] == 7
    assert keep(cache, "dddd", "aaaa", "bbb") == ["dddd", "bbb"]


def test_the_oldest_can_be_given_up_until_none_is_kept():
    cache = a_cache()
    keep(cache, "aaaa", "bbbb", "aaaa")
    assert cache.evict_oldest()
    assert keep(cache, "aaaa") == []
    assert cache.evict_oldest() and not cache.evict_oldest()
    assert cache.stats()["bytes"] == 0


@pytest.mark.parametrize("reason", [TimeLimitError, PreemptedError])
def test_who_waits_makes_it_when_another_ended_for_a_reason_of_its_own(reason):
    cache, begun = a_cache(), threading.Event()

    def ends() -> str:
        begun.set()
        until(lambda: cache.is_awaited("key"))
        raise reason

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cache.get_or_compute, "key", ends)
        assert begun.wait(10)
        assert cache.get_or_compute("key", lambda: "mine") == "mine"
        assert isinstance(other.exception(), reason)


def test_a_failure_is_everybodys_who_waited_and_the_next_one_tries_anew():
    cache, begun = a_cache(), threading.Event()

    def fails() -> str:
        begun.set()
        until(lambda: cache.is_awaited("key"))
        raise ValueError("no such thing")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cache.get_or_compute, "key", fails)
        assert begun.wait(10)
        with pytest.raises(ValueError, match="no such thing"):
            cache.get_or_compute("key", lambda: "not asked")
        assert isinstance(other.exception(), ValueError)
    assert cache.get_or_compute("key", lambda: "found") == "found"


def test_waiting_ends_with_the_time_of_who_waits():
    cache, begun, finish = a_cache(), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert finish.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cache.get_or_compute, "key", slow)
        assert begun.wait(10)
        with use_clock(Clock(0.05)) as clock, pytest.raises(TimeLimitError):
            cache.get_or_compute("key", lambda: "not asked")
        assert clock.stages["wait"] >= 0.04
        finish.set()
        assert other.result() == "slow"
    assert not cache.is_awaited("key") and cache.get_or_compute("key", lambda: "anew") == "slow"

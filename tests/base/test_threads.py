from __future__ import annotations

import threading
import uuid

import pytest

from lib.base import threads


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.mark.parametrize("error", [ValueError("odd"), BaseException("panic"), SystemExit(1)])
def test_work_that_fails_is_begun_again_counted_and_told(name, error):
    done, turns = threading.Event(), []

    def work() -> None:
        turns.append(1)
        if len(turns) < 3:
            raise error
        done.set()

    thread = threads.start_watched(name, work)
    assert done.wait(5)
    thread.join(5)
    assert not thread.is_alive()
    assert threads.restarts()[name] == 2
    assert name in threads.recently_failed()


def test_after_a_while_the_thread_is_not_troubled_any_more(name, monkeypatch):
    threads.failed(name, ValueError())
    monkeypatch.setattr(threads, "RECENTLY_S", 0.0)
    assert name not in threads.recently_failed()
    assert threads.restarts()[name] == 1


def test_a_thread_that_never_failed_is_known_and_not_troubled(name):
    threads.start_watched(name, lambda: None).join(5)
    assert threads.restarts()[name] == 0
    assert name not in threads.recently_failed()


def test_periodic_work_goes_on_after_an_error(name):
    turns, enough = [], threading.Event()

    def work() -> None:
        turns.append(1)
        if len(turns) >= 4:
            enough.set()
            threading.Event().wait()  # for ever
        if len(turns) == 2:
            raise AttributeError("'NoneType' object has no attribute 'last_access_ts'")

    threads.start_periodic(name, work, 0.01)
    assert enough.wait(5)
    assert threads.restarts()[name] == 1

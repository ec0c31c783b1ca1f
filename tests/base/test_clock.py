"""Time limits and stage timings."""

from __future__ import annotations

import contextvars
import math
import threading
import time

import pytest

from lib.base.clock import ClientDisconnectedError, Clock, TimeLimitError, current_clock, use_clock


def test_a_stage_gets_the_time_of_each_of_its_blocks_also_of_one_that_raises():
    clock = Clock()
    with clock.stage("encode"):
        time.sleep(0.02)
    with pytest.raises(KeyError), clock.stage("decode"):
        raise KeyError
    with clock.stage("encode"):
        time.sleep(0.02)
    assert list(clock.stages) == ["encode", "decode"]
    assert 0.04 <= clock.stages["encode"] <= clock.elapsed
    assert 0 <= clock.stages["decode"] < 0.02


def test_without_a_limit_time_never_runs_out():
    clock = Clock()
    assert clock.remaining == math.inf
    clock.check()


def test_no_stage_begins_after_the_limit():
    clock = Clock(0.01)
    with clock.stage("read"):
        time.sleep(0.02)
    assert clock.remaining == 0
    with pytest.raises(TimeLimitError, match=r"timed out after 0\.01 s"), clock.stage("encode"):
        pytest.fail("the stage was entered")
    assert list(clock.stages) == ["read"]


def test_the_current_clock_is_found_below_and_gone_afterwards():
    outer, inner = Clock(), Clock()
    with use_clock(outer):
        with pytest.raises(ZeroDivisionError), use_clock(inner):
            assert current_clock() is inner
            raise ZeroDivisionError
        assert current_clock() is outer
    assert current_clock() not in (outer, inner)


def test_outside_of_any_work_nothing_is_kept():
    with current_clock().stage("encode"):
        pass
    assert current_clock().stages == {}


def test_a_thread_with_a_copy_of_the_context_writes_into_the_same_clock():
    def work():
        with current_clock().stage("encode"):
            pass

    with use_clock(Clock()) as clock:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
    assert list(clock.stages) == ["encode"]


def test_cancelled_work_ends_at_its_next_step():
    clock = Clock(100)
    clock.cancel()
    assert clock.is_over
    with pytest.raises(ClientDisconnectedError), clock.stage("decode"):
        pytest.fail("the stage was entered")


def test_waiting_ends_when_the_work_is_cancelled_or_its_time_is_up():
    never = threading.Event()
    clock = Clock()
    threading.Timer(0.1, clock.cancel).start()
    started = time.monotonic()
    assert not clock.wait_until(never.wait)
    assert not Clock(0.05).wait_until(never.wait)
    assert time.monotonic() - started < 1
    happened = threading.Event()
    happened.set()
    assert Clock().wait_until(happened.wait)


def test_while_it_stands_still_no_time_runs_out():
    clock = Clock(0.2)
    began = time.monotonic()
    clock.stand_still(began)
    time.sleep(0.3)
    assert clock.remaining > 0.15
    clock.go_on()
    clock.go_on()
    before = clock.remaining
    assert before > 0.15
    time.sleep(0.05)
    assert clock.remaining < before - 0.04
    clock.stand_still(time.monotonic() - 0.05)
    assert clock.remaining > before - 0.02, "from a moment in the past on"
    assert clock.elapsed > 0.3

from __future__ import annotations

import operator
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lib.base.clock import ClientDisconnectedError, Clock, TimeLimitError, use_clock
from lib.imaging.decoding import isolation
from lib.imaging.decoding.isolation import isolated
from lib.imaging.decoding.shared_results import MAX_KEPT_BYTES
from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError

MEBIBYTE = 2**20


def call(function, *args, memory: int = 64 * MEBIBYTE, seconds: float = 30):
    return isolated(function, *args, memory=memory, seconds=seconds)


def workers() -> list[int]:
    isolation.start_workers()
    return [worker.process.pid for worker in isolation._pool._all]


def test_a_call_runs_in_another_process_and_returns_what_the_function_returns() -> None:
    assert call(os.getpid) in workers()
    np.testing.assert_array_equal(call(np.arange, 100_000), np.arange(100_000))
    assert call(operator.add, "a", "b") == "ab"


def test_a_returned_array_is_the_callers_own() -> None:
    first, second = call(np.zeros, 1000), call(np.zeros, 1000)
    first += 1
    assert not second.any()
    assert not call(np.zeros, 1000).any()


def test_our_errors_arrive_as_they_are_and_others_by_their_words() -> None:
    with pytest.raises(UnsupportedImageError, match=r"^such an image$"):
        call(_raise_ours)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        call(operator.truediv, 1, 0)
    with pytest.raises(RuntimeError, match="UnicodeDecodeError"):  # cannot be recreated from its message
        call(bytes.decode, b"\xff")


def test_an_abort_costs_its_call_alone() -> None:
    before = set(workers())
    with pytest.raises(CorruptImageError, match="crashes its decoder"):
        call(os.abort)
    assert len(before - set(workers())) == min(3, len(before))  # it was tried three times
    assert call(operator.add, 1, 2) == 3


def test_a_call_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(ImageTooLargeError, match="takes longer to decode"):
        call(time.sleep, 60, seconds=0.5)
    assert time.monotonic() - began < 30
    assert call(operator.add, 1, 2) == 3


def test_a_call_gets_the_memory_that_it_was_given_and_no_more() -> None:
    assert call(_touch, 200 * MEBIBYTE, memory=200 * MEBIBYTE) == 200 * MEBIBYTE
    with pytest.raises(MemoryError):
        call(_touch, 800 * MEBIBYTE, memory=64 * MEBIBYTE)
    assert call(_touch, 800 * MEBIBYTE, memory=800 * MEBIBYTE) == 800 * MEBIBYTE


def test_a_large_result_does_not_stay_in_shared_memory() -> None:
    assert call(np.ones, 8 * MEBIBYTE, memory=512 * MEBIBYTE).sum() == 8 * MEBIBYTE
    for _ in workers():  # workers are used in turn
        call(operator.add, 1, 2)
    held = [os.fstat(worker._results).st_size for worker in isolation._pool._all]
    assert max(held) <= MAX_KEPT_BYTES


def test_some_workers_are_started_first_and_the_others_later() -> None:
    pool = isolation._Pool()
    try:
        for asked, running in ((1, 1), (1, 1), (None, (os.cpu_count() or 1) + 1)):
            pool.start(asked)
            assert len(pool._all) == running
    finally:
        pool.stop()


@pytest.mark.slow
def test_workers_that_are_killed_while_others_call_cost_no_call() -> None:
    """If the system kills a worker because memory is short, another one repeats its call."""
    stop = time.monotonic() + 20

    def many(number: int) -> int:
        done = 0
        while time.monotonic() < stop and done < 150:
            assert call(_double, number + done) == 2 * (number + done)
            done += 1
        return done

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(many, 1000 * number) for number in range(4)]
        for round_number in range(5):
            time.sleep(1)
            alive = workers()
            os.kill(alive[round_number % len(alive)], signal.SIGKILL)
        assert sum(each.result() for each in calls) >= 40


def test_workers_end_with_the_server(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from lib.imaging.decoding import isolation;"
        "isolation.start_workers();"
        "print(*[worker.process.pid for worker in isolation._pool._all], flush=True); os.kill(os.getpid(), 9)"
    )
    app = Path(isolation.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(app)], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) > 1
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlived the process that started it")


def _raise_ours() -> None:
    raise UnsupportedImageError("such an image")


def _double(value: int) -> int:
    time.sleep(0.005)
    return 2 * value


def _touch(count: int) -> int:
    return len(b"x" * count)


def test_a_call_ends_with_the_time_of_its_request() -> None:
    started = time.monotonic()
    with use_clock(Clock(0.3)), pytest.raises(TimeLimitError):
        call(time.sleep, 20)
    assert time.monotonic() - started < 5


def test_a_call_ends_when_the_client_leaves() -> None:
    started, clock = time.monotonic(), Clock(60)
    threading.Timer(0.3, clock.cancel).start()
    with use_clock(clock), pytest.raises(ClientDisconnectedError):
        call(time.sleep, 20)
    assert time.monotonic() - started < 5
    assert call(operator.add, 1, 2) == 3


def test_waiting_for_a_worker_ends_with_the_time_of_the_request() -> None:
    with ThreadPoolExecutor(len(workers())) as pool:
        busy = [pool.submit(call, time.sleep, 1.5) for _ in workers()]
        time.sleep(0.3)
        with use_clock(Clock(0.2)), pytest.raises(TimeLimitError):
            call(os.getpid)
        assert all(each.result() is None for each in busy)

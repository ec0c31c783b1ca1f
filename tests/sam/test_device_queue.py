import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lib.base.clock import ClientDisconnectedError, Clock, PreemptedError, TimeLimitError, use_clock
from lib.sam.device_queue import MAX_OWNERS, NICENESS, DeviceQueue


@pytest.fixture
def queue() -> DeviceQueue:
    return DeviceQueue()


class Occupied:
    """Keeps the queue's thread busy until it is released."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._release = threading.Event()
        begun = threading.Event()

        def work() -> None:
            begun.set()
            assert self._release.wait(10)

        self._thread = threading.Thread(target=lambda: queue.run(work))
        self._thread.start()
        assert begun.wait(10)

    def release(self) -> None:
        self._release.set()
        self._thread.join(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def test_work_is_done_in_another_thread_which_is_less_urgent(queue: DeviceQueue):
    def work() -> tuple[int, int]:
        return threading.get_ident(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    thread, niceness = queue.run(work)
    assert thread != threading.get_ident()
    assert niceness == max(NICENESS, mine)
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine


def test_an_error_is_the_caller_s_and_the_queue_goes_on(queue: DeviceQueue):
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 / 0)
    assert queue.run(lambda: "next") == "next"


def test_work_that_asks_for_the_device_again_does_not_wait_for_itself(queue: DeviceQueue):
    assert queue.run(lambda: queue.run(lambda: 7)) == 7


def test_first_come_first_served(queue: DeviceQueue):
    occupied = Occupied(queue)
    order: list[int] = []
    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=lambda number=number: queue.run(lambda: order.append(number))))
        threads[-1].start()
        wait_for(lambda number=number: queue.stats()["waiting"] == number + 1)
    occupied.release()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]


def test_the_caller_s_clock_counts_the_wait_and_the_work(queue: DeviceQueue):
    occupied = Occupied(queue)
    threading.Timer(0.2, occupied.release).start()
    with use_clock(Clock()) as clock:

        def work() -> None:
            from lib.base.clock import current_clock

            with current_clock().stage("encode"):
                time.sleep(0.1)

        queue.run(work)
    assert clock.stages["wait"] > 0.1
    assert 0.09 < clock.stages["encode"] < 5


def test_who_has_no_time_left_leaves_the_queue_and_their_work_is_not_done(queue: DeviceQueue):
    occupied = Occupied(queue)
    done = []
    with use_clock(Clock(0.1)), pytest.raises(TimeLimitError, match="not free"):
        queue.run(lambda: done.append(1))
    assert queue.stats()["waiting"] == 0
    occupied.release()
    queue.run(lambda: None)
    assert not done


def test_work_ahead_is_done_in_its_order_while_nobody_waits(queue: DeviceQueue):
    order: list[str] = []
    queue.run_prefetch("a", [lambda stop, name=name: order.append(name) for name in "xyz"])
    wait_for(lambda: queue.stats()["ahead"] == 0)
    assert order == ["x", "y", "z"]


def test_work_ahead_waits_for_those_who_wait_and_for_those_who_decode(queue: DeviceQueue):
    order: list[str] = []
    occupied = Occupied(queue)
    queue.run_prefetch("a", [lambda stop: order.append("ahead")])
    click = threading.Thread(target=lambda: queue.run(lambda: order.append("click")))
    click.start()
    wait_for(lambda: queue.stats()["waiting"] == 1)
    with queue.attended():
        occupied.release()
        click.join(10)
        time.sleep(0.05)
        assert order == ["click"]
    wait_for(lambda: order == ["click", "ahead"])


def test_work_ahead_gives_way_to_a_click_and_is_done_anew(queue: DeviceQueue):
    tries: list[str] = []
    begun = threading.Event()

    def step(should_stop: Callable[[], bool]) -> None:
        if not tries:
            tries.append("given up")
            begun.set()
            wait_for(should_stop)
            raise PreemptedError
        tries.append("done")

    queue.run_prefetch("a", [step])
    assert begun.wait(10)
    assert queue.run(lambda: list(tries)) == ["given up"]
    wait_for(lambda: tries == ["given up", "done"])


def test_a_new_list_takes_the_place_of_the_old_one_at_once(queue: DeviceQueue):
    done: list[str] = []
    begun = threading.Event()

    def old(should_stop: Callable[[], bool]) -> None:
        begun.set()
        wait_for(should_stop)
        raise PreemptedError

    queue.run_prefetch("a", [old, lambda stop: done.append("old")])
    assert begun.wait(10)
    queue.run_prefetch("a", [lambda stop: done.append("new")])
    wait_for(lambda: queue.stats()["ahead"] == 0)
    assert done == ["new"]


def test_the_newest_user_s_list_comes_first_and_an_empty_one_ends_it(queue: DeviceQueue):
    occupied = Occupied(queue)
    done: list[str] = []
    for user in "abc":
        queue.run_prefetch(user, [lambda stop, user=user: done.append(user)])
    queue.run_prefetch("b", [])
    occupied.release()
    wait_for(lambda: queue.stats()["ahead"] == 0)
    assert done == ["c", "a"]


def test_the_users_whose_lists_are_kept_are_bounded(queue: DeviceQueue):
    occupied = Occupied(queue)
    for number in range(MAX_OWNERS + 5):
        queue.run_prefetch(f"user {number}", [lambda stop: None])
    assert queue.stats()["ahead"] == MAX_OWNERS
    occupied.release()


def test_what_fails_ahead_is_left_and_the_rest_is_done(queue: DeviceQueue, caplog: pytest.LogCaptureFixture):
    done: list[str] = []

    def fails(should_stop: Callable[[], bool]) -> None:
        raise ValueError("of the test")

    queue.run_prefetch("a", [fails, lambda stop: done.append("next")])
    wait_for(lambda: queue.stats()["ahead"] == 0)
    assert done == ["next"]
    assert "background thread device failed" in caplog.text


def test_who_leaves_while_waiting_makes_room(queue: DeviceQueue):
    occupied = Occupied(queue)
    clock = Clock(60)
    threading.Timer(0.2, clock.cancel).start()
    with use_clock(clock), pytest.raises(ClientDisconnectedError):
        queue.run(lambda: pytest.fail("it was begun"))
    assert queue.stats()["waiting"] == 0
    occupied.release()


@pytest.mark.parametrize("ahead", [False, True])
def test_what_was_worked_on_is_not_kept(queue: DeviceQueue, ahead: bool):
    class Image:
        def encode(self, should_stop: object = None) -> None:
            self.is_encoded = True

    image = Image()
    seen = weakref.ref(image)
    if ahead:
        queue.run_prefetch("ann", [image.encode])
    else:
        queue.run(image.encode)
    del image
    wait_for(lambda: seen() is None)


class Gates:
    """Work of which each piece runs until it is let go."""

    def __init__(self) -> None:
        self.running: list[object] = []
        self._open: dict[object, threading.Event] = {}
        self._lock = threading.Lock()

    def work(self, name: object) -> Callable[[], None]:
        gate = self._open[name] = threading.Event()

        def wait() -> None:
            with self._lock:
                self.running.append(name)
            assert gate.wait(10)
            with self._lock:
                self.running.remove(name)

        return wait

    def let_go(self, *names: object) -> None:
        for name in names:
            self._open[name].set()


def submit(queue: DeviceQueue, work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=lambda: queue.run(work), daemon=True)
    waiting = queue.stats()["waiting"]
    thread.start()
    time.sleep(0.02)
    assert queue.stats()["waiting"] <= waiting + 1
    return thread


def test_as_much_runs_at_once_as_there_are_workers():
    queue, gates = DeviceQueue(width=lambda: 2), Gates()
    threads = [submit(queue, gates.work(number)) for number in range(4)]
    wait_for(lambda: sorted(gates.running) == [0, 1])
    assert queue.stats()["waiting"] == 2
    gates.let_go(1)
    wait_for(lambda: sorted(gates.running) == [0, 2])
    gates.let_go(0, 2, 3)
    for thread in threads:
        thread.join(10)
    assert sorted(gates.running) == []


def test_the_number_of_workers_can_change():
    width = 2
    queue, gates = DeviceQueue(width=lambda: width), Gates()
    threads = [submit(queue, gates.work(number)) for number in range(5)]
    wait_for(lambda: sorted(gates.running) == [0, 1])
    width = 1
    gates.let_go(0)
    wait_for(lambda: sorted(gates.running) == [1])
    time.sleep(0.05)
    assert sorted(gates.running) == [1], "one worker is left, and it is busy"
    width = 3
    gates.let_go(1)
    wait_for(lambda: len(gates.running) >= 2)
    threads.append(submit(queue, gates.work(5)))
    wait_for(lambda: sorted(gates.running) == [2, 3, 4])
    gates.let_go(2, 3, 4, 5)
    for thread in threads:
        thread.join(10)


def test_without_workers_work_is_begun_so_that_it_can_say_so():
    assert DeviceQueue(width=lambda: 0).run(lambda: "none is there") == "none is there"


def test_work_ahead_takes_the_workers_that_are_free_and_gives_way_when_none_is():
    queue, gates = DeviceQueue(width=lambda: 2), Gates()
    stopped: list[str] = []
    is_over = threading.Event()

    def ahead(name: str) -> Callable[[Callable[[], bool]], None]:
        def step(should_stop: Callable[[], bool]) -> None:
            gates.running.append(name)
            wait_for(lambda: should_stop() or is_over.is_set())
            gates.running.remove(name)
            if not is_over.is_set():
                stopped.append(name)
                raise PreemptedError

        return step

    first = submit(queue, gates.work("click"))
    wait_for(lambda: sorted(gates.running) == ["click"])
    queue.run_prefetch("ann", [ahead("slice")])
    wait_for(lambda: sorted(gates.running) == ["click", "slice"])
    time.sleep(0.05)
    assert stopped == [] and queue.stats() == {"waiting": 0, "ahead": 1, "batch": 0}
    second = submit(queue, gates.work("next click"))
    wait_for(lambda: sorted(gates.running) == ["click", "next click"])
    assert stopped == ["slice"]
    gates.let_go("click", "next click")
    wait_for(lambda: sorted(gates.running) == ["slice"])
    is_over.set()
    wait_for(lambda: queue.stats()["ahead"] == 0)
    first.join(10)
    second.join(10)


def test_clicks_come_before_what_is_ahead_with_several_workers_too():
    queue, gates, order = DeviceQueue(width=lambda: 2), Gates(), []
    threads = [submit(queue, gates.work(number)) for number in range(2)]
    wait_for(lambda: sorted(gates.running) == [0, 1])
    queue.run_prefetch("ann", [lambda stop: order.append("ahead")])
    threads.append(submit(queue, lambda: order.append("click")))
    gates.let_go(0, 1)
    wait_for(lambda: order == ["click", "ahead"])
    for thread in threads:
        thread.join(10)


class Yielding:
    """Work that gives way, as a prefetch or in a batch; it runs until it must stop, or all of it is to end."""

    def __init__(self, queue: DeviceQueue) -> None:
        self._queue = queue
        self.running: list[str] = []
        self.stopped: list[str] = []
        self.done: list[str] = []
        self.is_over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.batched: list[str] = []

    def _work(self, name: str, should_stop: Callable[[], bool]) -> str:
        self.running.append(name)
        try:
            wait_for(lambda: should_stop() or self.is_over.is_set())
        finally:
            self.running.remove(name)
        if not self.is_over.is_set():
            self.stopped.append(name)
            raise PreemptedError
        self.done.append(name)
        return name

    def prefetch(self, name: str) -> None:
        self._queue.run_prefetch(name, [lambda should_stop: self._work(name, should_stop)])

    def batch(self, name: str, clock: Clock | None = None, is_awaited: Callable[[], bool] = lambda: False) -> None:
        def run() -> None:
            with use_clock(clock or Clock(gives_way=True)):
                self._queue.run(lambda: self._work(name, self._queue.must_stop), is_awaited)

        self.batched.append(name)
        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()
        wait_for(lambda: self._queue.stats()["batch"] + len(set(self.running) & set(self.batched)) == len(self.batched))

    def end(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(10)
        wait_for(lambda: self._queue.stats() == {"waiting": 0, "ahead": 0, "batch": 0})


def test_clicks_come_before_prefetches_and_those_before_a_batch(queue: DeviceQueue):
    occupied, yielding = Occupied(queue), Yielding(queue)
    yielding.batch("first image")
    yielding.batch("second image")
    yielding.prefetch("ann")
    click = threading.Thread(target=lambda: queue.run(lambda: yielding.done.append("click")))
    click.start()
    wait_for(lambda: queue.stats() == {"waiting": 1, "ahead": 1, "batch": 2})
    yielding.is_over.set()
    occupied.release()
    click.join(10)
    yielding.end()
    assert yielding.done == ["click", "ann", "first image", "second image"]


def test_a_batch_gives_way_to_a_click_and_its_work_is_repeated_first(queue: DeviceQueue):
    yielding = Yielding(queue)
    yielding.batch("first image")
    wait_for(lambda: yielding.running == ["first image"])
    yielding.batch("second image")
    assert queue.run(lambda: list(yielding.stopped)) == ["first image"]
    wait_for(lambda: yielding.running == ["first image"])
    yielding.end()
    assert yielding.done == ["first image", "second image"]


def test_a_batch_does_not_give_way_to_a_prefetch(queue: DeviceQueue):
    yielding = Yielding(queue)
    yielding.batch("image")
    wait_for(lambda: yielding.running == ["image"])
    yielding.prefetch("ann")
    time.sleep(0.05)
    yielding.end()
    assert yielding.done == ["image", "ann"] and yielding.stopped == []


def test_a_request_s_decode_holds_up_a_batch_and_a_batch_s_decode_nothing(queue: DeviceQueue):
    yielding = Yielding(queue)
    with queue.attended():
        yielding.batch("image")
        time.sleep(0.05)
        assert yielding.running == []
    wait_for(lambda: yielding.running == ["image"])
    yielding.end()
    other = Yielding(queue)
    with use_clock(Clock(gives_way=True)), queue.attended():
        other.prefetch("ann")
        wait_for(lambda: other.running == ["ann"])
    other.end()


def test_what_a_batch_waits_and_repeats_does_not_use_up_its_time(queue: DeviceQueue):
    occupied, yielding, clock = Occupied(queue), Yielding(queue), Clock(0.6, gives_way=True)
    yielding.batch("image", clock)
    time.sleep(0.5)
    occupied.release()
    wait_for(lambda: yielding.running == ["image"])
    time.sleep(0.4)
    queue.run(lambda: time.sleep(0.3))
    assert yielding.stopped == ["image"]
    yielding.end()
    assert yielding.done == ["image"] and 0.2 < clock.remaining < 0.6


def test_what_a_batch_itself_takes_uses_up_its_time(queue: DeviceQueue):
    clock = Clock(0.2, gives_way=True)

    def work() -> None:
        wait_for(lambda: clock.is_over)
        raise PreemptedError

    with use_clock(clock), pytest.raises(PreemptedError):
        queue.run(work)


def test_a_batch_s_work_that_is_cancelled_leaves_the_queue(queue: DeviceQueue):
    occupied, clock = Occupied(queue), Clock(gives_way=True)
    threading.Timer(0.1, clock.cancel).start()
    with use_clock(clock), pytest.raises(ClientDisconnectedError):
        queue.run(lambda: pytest.fail("it was begun"))
    assert queue.stats()["batch"] == 0
    occupied.release()


def test_a_batch_s_work_that_a_request_waits_for_waits_as_a_request(queue: DeviceQueue):
    occupied, yielding = Occupied(queue), Yielding(queue)
    is_awaited = threading.Event()
    yielding.batch("first image")
    yielding.batch("second image", is_awaited=is_awaited.is_set)
    yielding.prefetch("ann")
    is_awaited.set()
    wait_for(lambda: queue.stats() == {"waiting": 1, "ahead": 1, "batch": 1})
    yielding.is_over.set()
    occupied.release()
    yielding.end()
    assert yielding.done == ["second image", "ann", "first image"]


def test_one_click_stops_one_piece_of_work_alone():
    queue = DeviceQueue(width=lambda: 3)
    together = threading.Barrier(3)
    told: list[bool] = []

    def work() -> None:
        if len(told) == 3:  # it is repeated
            return
        wait_for(lambda: queue.stats()["waiting"] == 1)
        must_stop = queue.must_stop()
        told.append(must_stop)
        together.wait(10)
        assert queue.must_stop() == must_stop, "it stays so"
        if must_stop:
            raise PreemptedError

    def batch() -> None:
        with use_clock(Clock(gives_way=True)):
            queue.run(work)

    threads = [threading.Thread(target=batch, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: queue.stats()["batch"] == 0)
    queue.run(lambda: None)
    for thread in threads:
        thread.join(10)
    assert sorted(told) == [False, False, True]


def test_requests_may_be_more_at_once_than_what_gives_way():
    queue, gates = DeviceQueue(width=lambda: 3, ahead_width=lambda: 1), Gates()
    yielding = Yielding(queue)
    yielding.batch("first image")
    wait_for(lambda: yielding.running == ["first image"])
    yielding.batch("second image")
    yielding.prefetch("ann")
    time.sleep(0.05)
    assert yielding.running == ["first image"], "there is one worker"
    clicks = [submit(queue, gates.work("click"))]
    wait_for(lambda: gates.running == ["click"] and yielding.stopped == ["first image"])
    clicks.append(submit(queue, gates.work("next click")))
    wait_for(lambda: sorted(gates.running) == ["click", "next click"])
    gates.let_go("click")
    clicks[0].join(10)
    time.sleep(0.05)
    assert yielding.running == [], "the worker is taken"
    gates.let_go("next click")
    clicks[1].join(10)
    yielding.end()
    assert yielding.done == ["ann", "first image", "second image"]


def test_what_waits_begins_when_there_are_more_workers_though_nobody_tells():
    width = 1
    queue = DeviceQueue(width=lambda: 2, ahead_width=lambda: width)
    yielding = Yielding(queue)
    yielding.batch("first image")
    yielding.batch("second image")
    wait_for(lambda: yielding.running == ["first image"])
    time.sleep(0.05)
    width = 2
    wait_for(lambda: sorted(yielding.running) == ["first image", "second image"])
    yielding.end()


def test_what_gives_way_gives_way_to_requests_elsewhere_for_the_same_workers():
    elsewhere = 0
    queue = DeviceQueue(width=lambda: 2, elsewhere=lambda: elsewhere)
    yielding = Yielding(queue)
    yielding.batch("first image")
    yielding.batch("second image")
    wait_for(lambda: sorted(yielding.running) == ["first image", "second image"])
    elsewhere = 1
    wait_for(lambda: len(yielding.running) == 1)
    elsewhere = 5
    wait_for(lambda: yielding.running == [])
    assert queue.requests() == 0
    queue.run(lambda: None)  # a request is as good as one elsewhere
    time.sleep(0.05)
    assert yielding.running == []
    elsewhere = 0
    wait_for(lambda: sorted(yielding.running) == ["first image", "second image"])
    yielding.end()


def test_a_step_that_runs_goes_on_if_the_new_list_has_its_equal(queue: DeviceQueue):
    @dataclass(frozen=True)
    class Slice:
        k: int

        def __call__(self, should_stop: Callable[[], bool]) -> None:
            begun.append(self.k)
            while not may_end.is_set():
                if should_stop():
                    raise PreemptedError
                time.sleep(0.002)
            done.append(self.k)

    begun: list[int] = []
    done: list[int] = []
    may_end = threading.Event()
    queue.run_prefetch("ann", [Slice(5), Slice(6)])
    wait_for(lambda: begun == [5])
    queue.run_prefetch("ann", [Slice(6), Slice(5), Slice(7)])
    time.sleep(0.05)
    assert begun == [5] and queue.stats()["ahead"] == 3
    queue.run_prefetch("ann", [Slice(6), Slice(7)])
    wait_for(lambda: begun == [5, 6])
    may_end.set()
    wait_for(lambda: queue.stats()["ahead"] == 0)
    assert done == [6, 7]

import gc
import threading
import time

import numpy as np
import pytest

from lib.base.clock import Clock, use_clock
from lib.imaging.image import MedicalImage, Window
from lib.infers.prefetch import Prefetcher, nearest_first
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.transforms.request import AUTO
from lib.transforms.window import choose_window, windowed_frame

WINDOW = Window(50, 100)


def volume(slices: int = 12, seed: int = 0) -> MedicalImage:
    values = np.random.default_rng(seed).integers(0, 100, (slices, 64, 64), dtype=np.int16)
    return MedicalImage(frames=values)


@pytest.fixture
def engine() -> Engine:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu")


def rest(engine: Engine) -> None:
    """Until nothing is left to do ahead."""
    deadline = time.monotonic() + 60
    while engine.queue.stats()["ahead"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.queue.run(lambda: None)


def encoded(engine: Engine, image: MedicalImage, window: Window | str) -> set[int]:
    """The slices that need no encode any more; looking at them encodes the others."""
    predictor = engine.predictor("sam_tiny")
    there = set()
    for k in range(image.frame_count):
        with use_clock(Clock()) as clock:
            predictor.encode(windowed_frame(image, k, choose_window(image, k, window)[0]))
        if "encode" not in clock.stages:
            there.add(k)
    return there


def test_the_nearest_come_first_and_none_is_outside():
    assert nearest_first(5, 20, 5) == [6, 4, 7, 3, 8]
    assert nearest_first(0, 4, 16) == [1, 2, 3]
    assert nearest_first(3, 4, 2) == [2, 1]
    assert nearest_first(0, 1, 16) == []


def test_two_ahead_in_the_direction_of_travel_for_one_behind():
    assert nearest_first(10, 40, 6, direction=1) == [11, 12, 9, 13, 14, 8]
    assert nearest_first(10, 40, 6, direction=-1) == [9, 8, 11, 7, 6, 12]


def test_after_a_click_the_neighbours_are_encoded(engine: Engine):
    image = volume()
    Prefetcher(engine, slices=4).clicked("sam_tiny", "ann", image, 6, WINDOW)
    rest(engine)
    assert encoded(engine, image, WINDOW) == {4, 5, 7, 8}


@pytest.mark.slow
def test_who_goes_on_in_one_direction_finds_more_slices_there(engine: Engine):
    image, ahead = volume(20), Prefetcher(engine, slices=3)
    for k in (9, 10):
        ahead.clicked("sam_tiny", "ann", image, k, WINDOW)
        rest(engine)
    assert encoded(engine, image, WINDOW) >= {11, 12}


def test_a_user_who_leaves_an_image_is_not_worked_for_there_any_more(engine: Engine):
    left, entered = volume(14, seed=1), volume(14, seed=2)
    ahead, occupied, begun = Prefetcher(engine, slices=10), threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        assert occupied.wait(30)

    engine.predictor("sam_tiny")
    thread = threading.Thread(target=lambda: engine.queue.run(occupy))
    thread.start()
    assert begun.wait(10)
    ahead.clicked("sam_tiny", "ann", left, 7, WINDOW)
    ahead.clicked("sam_tiny", "ann", entered, 7, WINDOW)
    assert engine.queue.stats()["ahead"] == 10
    occupied.set()
    thread.join(10)
    rest(engine)
    assert not encoded(engine, left, WINDOW)
    assert len(encoded(engine, entered, WINDOW)) == 10


def test_an_image_that_is_opened_is_encoded_from_its_middle_on(engine: Engine):
    image, read = volume(9), []
    ahead = Prefetcher(engine, slices=3)
    ahead.opened("sam_tiny", "ann", lambda: read.append(1) or image)
    deadline = time.monotonic() + 30
    while ahead._is_reading._value == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rest(engine)
    assert read == [1]
    assert encoded(engine, image, AUTO) == {3, 4, 5}


def test_nothing_is_done_ahead_for_images_of_one_slice_or_if_it_is_turned_off(engine: Engine):
    Prefetcher(engine, slices=16).clicked("sam_tiny", "ann", volume(1), 0, WINDOW)
    Prefetcher(engine, slices=0).clicked("sam_tiny", "ann", volume(), 3, WINDOW)
    Prefetcher(engine, slices=0).opened("sam_tiny", "ann", lambda: pytest.fail("it was read"))
    assert engine.queue.stats()["ahead"] == 0


def test_what_is_planned_keeps_no_image_in_memory(engine: Engine):
    engine.predictor("sam_tiny")
    occupied, begun = threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        assert occupied.wait(30)

    thread = threading.Thread(target=lambda: engine.queue.run(occupy))
    thread.start()
    assert begun.wait(10)
    Prefetcher(engine).clicked("sam_tiny", "ann", volume(), 3, WINDOW)
    gc.collect()
    occupied.set()
    thread.join(10)
    rest(engine)
    assert engine.cache.stats()["entries"] == 0

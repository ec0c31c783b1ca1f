"""How a batch is worked on: how many images at once, what it gives way to, and how it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lib.base.clock import current_clock
from lib.sam.device_queue import NICENESS, DeviceQueue
from lib.server.admission import Admission
from lib.server.batch import Batch, BatchInference, BatchRunningError
from lib.transforms.request import SegmentRequest, Source
from support.in_process import made_app
from support.made_workers import EncodesTogether
from support.phantoms import BALL_AFFINE, ball_volume

REQUEST = SegmentRequest(model="sam_tiny", image="", source=Source.LABELS, save_as="pre")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


class Work:
    """Images of which each is worked on until it is let go, or all are."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.begun: list[str] = []
        self.most = 0
        self.let_go: set[str] = set()
        self.all_go = False
        self._lock = threading.Lock()

    def __call__(self, request: SegmentRequest) -> dict[str, Any]:
        image = str(request.image)
        with self._lock:
            self.running.append(image)
            self.begun.append(image)
            self.most = max(self.most, len(self.running))
        wait_for(lambda: self.all_go or image in self.let_go)
        with self._lock:
            self.running.remove(image)
        if image == "broken":
            raise ValueError("of the test")
        return {"label": f"label of {image}", "tag": request.save_as, "params": {}, "file": "not told"}


@pytest.fixture
def work() -> Work:
    return Work()


def batches(work: Callable, at_once: Callable[[], int] = lambda: 1, *, places: int = 16, seconds: float = 60):
    return BatchInference(work, Admission(places), max_seconds=seconds, at_once=at_once)


def ended(batch: Batch) -> Batch:
    wait_for(lambda: batch.end_ts is not None)
    return batch


def test_as_many_images_are_worked_on_as_can_be_encoded_at_once(work):
    at_once = 2
    runner = batches(work, lambda: at_once)
    batch = runner.start(REQUEST, [f"image {n}" for n in range(9)], {})
    wait_for(lambda: len(work.running) == 2)
    time.sleep(0.05)
    assert work.begun == ["image 0", "image 1"] or work.begun == ["image 1", "image 0"]
    at_once = 4
    work.let_go |= {"image 0", "image 1"}
    wait_for(lambda: len(work.running) == 4)
    at_once = 1
    work.let_go |= {"image 2", "image 3", "image 4", "image 5"}
    wait_for(lambda: len(work.begun) > 6)
    time.sleep(0.05)
    assert work.running == ["image 6"]
    work.all_go = True
    assert ended(batch).status == "DONE" and work.most == 4
    assert sorted(work.begun) == sorted(batch.results) == [f"image {n}" for n in range(9)]


def test_half_of_the_places_are_for_users(work):
    runner = batches(work, lambda: 64, places=6)
    batch = runner.start(REQUEST, [str(n) for n in range(9)], {})
    wait_for(lambda: len(work.running) == 3)
    time.sleep(0.05)
    assert work.most == 3 and runner._admission.count == 3
    work.all_go = True
    ended(batch)
    assert work.most == 3 and runner._admission.count == 0


def test_without_workers_one_image_is_worked_on_at_a_time_even_with_one_place(work):
    work.all_go = True
    assert ended(batches(work, places=1).start(REQUEST, ["a", "b"], {})).status == "DONE"
    assert work.most == 1


def test_stopped_it_ends_after_the_images_that_are_worked_on(work):
    runner = batches(work, lambda: 2)
    batch = runner.start(REQUEST, ["a", "b", "c", "d"], {})
    wait_for(lambda: len(work.running) == 2)
    assert runner.stop() is batch
    with pytest.raises(BatchRunningError):
        runner.start(REQUEST, ["a"], {})
    work.all_go = True
    assert ended(batch).status == "STOPPED"
    assert sorted(batch.results) == ["a", "b"] and batch.as_dict()["details"] == ["2 of 4 images, 0 of them failed"]


def test_an_image_that_fails_is_named_and_the_others_are_done(work):
    work.all_go = True
    batch = ended(batches(work, lambda: 3).start(REQUEST, ["a", "broken", "b"], {"model": "sam_tiny"}))
    shown = batch.as_dict()
    assert shown["status"] == "DONE" and shown["details"] == ["3 of 3 images, 1 of them failed"]
    assert shown["results"]["a"] == {"label": "label of a", "tag": "pre", "params": {}}
    assert list(shown["results"]["broken"]) == ["error"]
    assert ended(batches(work).start(REQUEST, ["broken"], {})).status == "ERROR"


def test_ten_thousand_images_are_each_done_once_while_others_look(work):
    work.all_go = True
    images = [f"{n:05}" for n in range(10_000)]
    batch = batches(work, lambda: 4).start(REQUEST, images, {})
    looks = 0
    while batch.end_ts is None:
        shown = batch.as_dict()
        assert shown["details"] == [f"{len(shown['results'])} of 10000 images, 0 of them failed"]
        looks += 1
    assert looks and batch.status == "DONE"
    assert sorted(work.begun) == images == sorted(batch.results)


def test_its_work_gives_way_and_has_a_low_priority():
    seen: list[tuple[bool, int]] = []

    def infer(request: SegmentRequest) -> dict[str, Any]:
        priority = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        seen.append((current_clock().gives_way, priority))
        wait_for(lambda: len(seen) == 2)
        return {"label": "", "tag": "pre", "params": {}}

    assert ended(batches(infer, lambda: 2).start(REQUEST, ["a", "b"], {})).failed == 0
    assert seen == 2 * [(True, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))]


@pytest.mark.slow
def test_all_workers_encode_for_a_batch(tmp_path: Path):
    studies = tmp_path / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    values, mask = ball_volume()
    for n in range(4):
        noise = np.random.default_rng(n).normal(0, 5, values.shape)
        name = f"ball{n}.nii.gz"
        nibabel.Nifti1Image((values + noise).astype(np.int16), BALL_AFFINE).to_filename(studies / name)
        nibabel.Nifti1Image(mask.astype(np.uint8), BALL_AFFINE).to_filename(studies / "labels" / "final" / name)
    with made_app(tmp_path / "app", studies=str(studies)) as app:
        workers = EncodesTogether(app.engine.predictor("sam_tiny"))
        app.engine.workers, app.engine.encodes = workers, DeviceQueue(width=lambda: 2)
        app.engine._predictors.clear()
        app.engine._served.clear()
        runner = BatchInference(app.segment, Admission(16), max_seconds=60, at_once=lambda: app.engine.encodes_at_once)
        batch = runner.start(REQUEST, app.datastore().list_images(), {}, wait=True)
        assert batch.status == "DONE" and batch.failed == 0 and len(workers.orders) == 4
        assert sorted(app.datastore().get_labeled_images("pre")) == [f"ball{n}" for n in range(4)]

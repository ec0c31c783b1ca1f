"""Memory budget: images reserve memory according to their headers, before anything is decoded."""

from __future__ import annotations

import gc
import gzip
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.base.clock import Clock, use_clock
from lib.imaging.decoding import memory_budget
from lib.imaging.decoding.memory_budget import MemoryBudget, MemoryBusyError, _group_limits, budget
from lib.imaging.image import ImageTooLargeError, MedicalImage
from lib.imaging.image_cache import ImageCache
from lib.imaging.readers import read_image

MEBIBYTE = 2**20


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch):
    """Limit the budget to reading a header plus about 200 MiB, in addition to what other tests hold."""
    gc.collect()
    monkeypatch.setattr(budget, "total", budget.taken + 264 * MEBIBYTE)
    return budget


def volume(path: Path, side: int, count: int, dtype: type = np.float64) -> Path:
    """Write a gzipped NIfTI of zeros, whose file has only kilobytes."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((side, side, count))
    header.set_data_dtype(dtype)
    header["vox_offset"] = 352
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(count):
            file.write(bytes(side * side * np.dtype(dtype).itemsize))
    return path


def test_what_is_reserved_is_given_back_by_hand_or_when_nobody_holds_it() -> None:
    some = MemoryBudget(100)
    first, second = some.reserve(60), some.reserve(40)
    assert some.taken == 100 and some.try_reserve(1) is None
    first.shrink(10)
    assert some.taken == 50
    second.release()
    second.release()
    assert some.taken == 10
    del first
    assert some.taken == 0


def test_what_never_fits_is_refused_with_what_is_needed_and_what_is_allowed() -> None:
    with pytest.raises(ImageTooLargeError, match=r"needs 300 MiB .*at most 200 MiB"):
        MemoryBudget(200 * MEBIBYTE).reserve(300 * MEBIBYTE)


def test_what_does_not_fit_now_waits_in_turn() -> None:
    some = MemoryBudget(100)
    held = some.reserve(80)
    order: list[int] = []

    def want(size: int) -> None:
        reservation = some.reserve(size)
        order.append(size)
        time.sleep(0.1)
        reservation.release()

    threads = []
    for size in (90, 15):  # the second would fit at once, but has to wait for the first
        threads.append(threading.Thread(target=want, args=(size,)))
        threads[-1].start()
        time.sleep(0.1)
    assert order == []
    held.release()
    for thread in threads:
        thread.join(10)
    assert order == [90, 15] and some.taken == 0


def test_waiting_ends_with_the_requests_time() -> None:
    some = MemoryBudget(100)
    held = some.reserve(80)
    with use_clock(Clock(0.3)), pytest.raises(MemoryBusyError, match="other requests use"):
        some.reserve(50)
    assert held.size == 80 and some.taken == 80


def test_kept_images_give_way(tmp_path: Path) -> None:
    some, cache = MemoryBudget(1000), ImageCache()
    some.add_evictor(cache.evict_oldest)
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"")

        def read(path: Path) -> MedicalImage:
            image = MedicalImage(frames=np.zeros((1, 20, 20), np.uint8))
            some.keep(image, some.reserve(400))
            return image

        cache.get_or_read(tmp_path / name, read, key=name)
    assert some.taken == 800
    held = some.reserve(500)
    assert cache.stats()["entries"] == 1 and some.taken == 900
    held.release()


def test_the_control_groups_limit_holds(tmp_path: Path) -> None:
    (tmp_path / "fs/app/worker").mkdir(parents=True)
    (tmp_path / "fs/app/memory.max").write_text("4096\n")
    (tmp_path / "fs/app/worker/memory.max").write_text("max\n")
    (tmp_path / "groups").write_text("0::/app/worker\n")
    assert min(_group_limits(tmp_path / "fs", tmp_path / "groups")) == 4096
    (tmp_path / "fs/memory/old").mkdir(parents=True)
    (tmp_path / "fs/memory/old/memory.limit_in_bytes").write_text("2048\n")
    (tmp_path / "groups").write_text("3:cpuset:/\n4:memory:/old\n0::/\n")
    assert min(_group_limits(tmp_path / "fs", tmp_path / "groups")) == 2048
    assert memory_budget.available_bytes() > 0


def test_an_image_that_never_fits_is_refused_before_it_is_decoded(tmp_path: Path, small_budget) -> None:
    path = volume(tmp_path / "bomb.nii.gz", 512, 128)
    began = time.monotonic()
    with pytest.raises(ImageTooLargeError, match=r"needs \d+ MiB .*at most \d+ MiB"):
        read_image(path)
    assert time.monotonic() - began < 20
    assert read_image(volume(tmp_path / "small.nii.gz", 64, 8)).frames.dtype == np.float32


def test_an_image_stays_reserved_as_long_as_it_is_held(tmp_path: Path, small_budget) -> None:
    gc.collect()
    before = small_budget.taken
    image = read_image(volume(tmp_path / "n.nii.gz", 256, 16))
    work = small_budget.reserve_for_work(image)
    assert work.size == memory_budget.working_bytes((256, 256))
    assert small_budget.taken - before == image.frames.nbytes + work.size
    work.release()
    assert small_budget.taken - before == image.frames.nbytes
    del image
    assert small_budget.taken == before


def test_a_claim_that_does_not_fit_now_is_made_again_when_it_does(tmp_path: Path, small_budget) -> None:
    path = volume(tmp_path / "n.nii.gz", 256, 32)  # 32 MiB at its peak
    held = small_budget.reserve(180 * MEBIBYTE)
    threading.Timer(1, held.release).start()
    began = time.monotonic()
    assert read_image(path).frame_count == 32
    assert time.monotonic() - began > 0.9

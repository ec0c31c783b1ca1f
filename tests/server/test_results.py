import errno
import os
import threading
import time
from decimal import Decimal

import pytest

from lib.server import results
from lib.server.results import NoSpaceError, ResultStore, UnknownResultError, parse_timestamp


def a_result(store: ResultStore, content: bytes = b"x") -> Decimal:
    with store.new() as pending:
        pending.write("mask.png", content)
    return pending.timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1732288000.120000", "1732288000.120000"),
        ("1732288000.12", "1732288000.120000"),
        ("1732288000", "1732288000.000000"),
        ("1732288000.", "1732288000.000000"),
        ("1732288000.1200000001", "1732288000.120000"),
    ],
)
def test_timestamps_are_numbers_not_text(text, seconds):
    assert f"{parse_timestamp(text):.6f}" == seconds


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-1", "1e9", "0x10", "1_0", "1.2.3", "../etc", "١٢", "9" * 13, "1." + "0" * 31, "1\n"]
)
def test_other_texts_are_no_timestamps(text):
    with pytest.raises(ValueError, match="timestamp"):
        parse_timestamp(text)


def test_every_timestamp_survives_json_numbers(tmp_path):
    """A client that reads the number as a double and prints it gets the same result."""
    store = ResultStore(tmp_path)
    for _ in range(200):
        timestamp = store._next_timestamp()
        assert parse_timestamp(repr(float(timestamp))) == timestamp


def test_a_result_is_there_when_it_is_complete(tmp_path):
    store = ResultStore(tmp_path / "new" / "folder")
    with store.new() as pending:
        pending.write("mask.png", b"content")
        with pytest.raises(UnknownResultError):
            store.file(pending.timestamp, "mask.png")
    assert store.file(pending.timestamp, "mask.png").read_bytes() == b"content"
    with pytest.raises(UnknownResultError, match="has no other.png"):
        store.file(pending.timestamp, "other.png")


def test_a_failure_leaves_nothing(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(RuntimeError, match="broken"), store.new() as pending:
        pending.write("mask.png", b"content")
        raise RuntimeError("broken")
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_removed_at_start(tmp_path):
    (tmp_path / ".1732288000.120000.part").mkdir()
    (tmp_path / ".1732288000.120000.part" / "mask.png").write_bytes(b"half")
    ResultStore(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_timestamps_increase_also_in_one_microsecond_across_restarts_and_when_the_clock_goes_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(results.time, "time_ns", lambda: 1_732_288_000_000_000_000)
    first = [a_result(ResultStore(tmp_path)) for _ in range(3)]
    monkeypatch.setattr(results.time, "time_ns", lambda: 1_600_000_000_000_000_000)
    later = a_result(ResultStore(tmp_path))
    assert first == [Decimal("1732288000") + Decimal(n).scaleb(-6) for n in range(3)]
    assert later == first[-1] + Decimal("0.000001")


def test_timestamps_are_unique_among_threads(tmp_path):
    store = ResultStore(tmp_path)
    taken: list[Decimal] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(store._next_timestamp() for _ in range(500))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(taken)) == 4000


def test_old_results_go(tmp_path):
    old = tmp_path / f"{time.time() - 100:.6f}"
    old.mkdir()
    (old / "mask.png").write_bytes(b"x")
    store = ResultStore(tmp_path, max_age_seconds=1000)
    assert old.exists()
    store = ResultStore(tmp_path, max_age_seconds=50)
    assert not old.exists()
    fresh = a_result(store)
    assert store.file(fresh, "mask.png").exists()


def test_the_oldest_go_when_all_are_too_large_but_the_newest_stays(tmp_path):
    store = ResultStore(tmp_path, max_bytes=2500)
    timestamps = [a_result(store, b"x" * 1000) for _ in range(4)]
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"{timestamp:.6f}" for timestamp in timestamps[-2:]]
    large = a_result(store, b"x" * 9000)
    assert [path.name for path in tmp_path.iterdir()] == [f"{large:.6f}"]


def test_a_full_disk_is_said_so_and_leaves_the_others(tmp_path, monkeypatch):
    store = ResultStore(tmp_path)
    kept = a_result(store)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(NoSpaceError, match="no space left"), store.new() as pending:
        pending.write("mask.png", b"content")
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept:.6f}"]


def test_only_the_owner_can_read_results(tmp_path):
    store = ResultStore(tmp_path / "results")
    a_result(store)
    modes = {path.stat().st_mode & 0o777 for path in [tmp_path / "results", *(tmp_path / "results").iterdir()]}
    assert modes == {0o700}

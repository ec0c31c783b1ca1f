import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from lib.base import files
from lib.base.locks import FolderInUseError
from lib.server.http.errors import NoSpaceError, UnknownResultError
from lib.server.rest import results, timestamps
from lib.server.rest.manifest import SCHEMA_VERSION, Manifest
from lib.server.rest.results import ResultStore

FACTS = {"model": "sam_tiny", "checkpoint_sha256": "00ff", "slice": 0, "scores": [0.9], "candidates": 1}
MANIFEST = Manifest.model_validate({"user": "someone", "input": {"sha256": "ff", "bytes": 5}, "result": FACTS})


@pytest.fixture
def store(tmp_path):
    opened = ResultStore(tmp_path / "results")
    yield opened
    opened.close()


def a_result(store: ResultStore, content: bytes = b"x", **manifest: object) -> Decimal:
    with store.new() as pending:
        pending.write("mask.png", content)
        pending.finish(MANIFEST.model_copy(update=manifest))
    return pending.timestamp


def a_queued_request(store: ResultStore) -> Decimal:
    with store.new() as pending:
        pending.write("input", b"image")
        pending.queue({"user": "someone", "request": {}, "input": {"sha256": "ff", "bytes": 5}})
    return pending.timestamp


def folders(store: ResultStore) -> list[str]:
    return sorted(path.name for path in store._folder.iterdir() if path.is_dir())


def again(store: ResultStore, **options) -> ResultStore:
    """The store as the next server opens it."""
    store.close()
    return ResultStore(store._folder, **options)


def test_a_result_is_there_when_it_is_complete(store):
    with store.new() as pending:
        pending.write("mask.png", b"content")
        pending.finish(MANIFEST)
        with pytest.raises(UnknownResultError):
            store.find(pending.timestamp)
    found = store.find(pending.timestamp)
    assert (
        found.state == "done"
        and found.manifest.user == "someone"
        and found.facts.as_dict() == MANIFEST.result.as_dict()
    )
    assert found.path("mask.png").read_bytes() == b"content"
    for name in ("other.png", "../mask.png", "manifest.json"):
        with pytest.raises(UnknownResultError, match="has no"):
            found.path(name)


def test_a_stream_is_stored_with_its_digest(store):
    with store.new() as pending:
        facts = pending.copy("input", io.BytesIO(b"abc" * 1_000_000))
        pending.finish(MANIFEST)
    assert facts.bytes == 3_000_000 and facts.sha256 == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert store.find(pending.timestamp).path("input").stat().st_size == 3_000_000


def test_a_failure_leaves_nothing(store):
    with pytest.raises(RuntimeError, match="broken"), store.new() as pending:
        pending.write("mask.png", b"content")
        raise RuntimeError("broken")
    assert folders(store) == []


def test_what_was_neither_finished_nor_queued_is_an_error(store):
    with pytest.raises(RuntimeError, match="neither"), store.new() as pending:
        pending.write("mask.png", b"content")
    assert folders(store) == []


def test_a_failed_result_says_so(store):
    timestamp = a_result(store, failure={"status": 415, "detail": "no image"})
    assert store.find(timestamp).state == "failed"


def test_a_queued_request_is_resumed_by_the_next_server_and_then_gone(store):
    timestamp = a_queued_request(store)
    assert store.find(timestamp).state == "queued" and store.queued() == [timestamp]
    store = again(store)
    assert store.find(timestamp).state == "queued" and store.queued() == [timestamp]
    with store.resume(timestamp) as pending:
        assert (pending.folder / "input").read_bytes() == b"image"
        assert store.find(timestamp).state == "queued"
        pending.write("mask.png", b"mask")
        pending.finish(MANIFEST)
    assert store.find(timestamp).state == "done" and store.queued() == []
    assert folders(store) == [f"{timestamp:.6f}"]
    assert sorted(store.find(timestamp).manifest.files) == ["input", "mask.png"]
    store.close()


def test_a_queued_request_stays_queued_if_the_work_on_it_breaks_off_and_its_attempts_are_counted(store):
    timestamp = a_queued_request(store)
    for attempt in (1, 2):
        with pytest.raises(KeyboardInterrupt), store.resume(timestamp) as pending:
            assert pending.attempt == attempt
            pending.write("mask.png", b"half")
            raise KeyboardInterrupt
        assert store.find(timestamp).state == "queued"
    store = again(store)
    with store.resume(timestamp) as pending:
        assert pending.attempt == 3 and not (pending.folder / "mask.png").exists()
        pending.finish(MANIFEST)
    store.close()


def test_a_crash_between_the_result_and_the_end_of_its_request_is_put_right(store):
    timestamp = a_queued_request(store)
    queued = store._folder / f".{timestamp:.6f}.queued"
    files = {path.name: path.read_bytes() for path in queued.iterdir()}
    with store.resume(timestamp) as pending:
        pending.finish(MANIFEST)
    queued.mkdir()
    for name, content in files.items():
        (queued / name).write_bytes(content)
    store = again(store)
    assert store.queued() == [] and store.find(timestamp).state == "done" and not queued.exists()
    store.close()


def test_what_a_crash_left_is_removed_at_start(store):
    left = store._folder / ".1732288000.120000.part"
    left.mkdir()
    (left / "mask.png").write_bytes(b"half")
    again(store).close()
    assert folders(store) == []


def test_timestamps_increase_across_restarts_also_when_the_results_are_gone_and_the_clock_went_back(store, monkeypatch):
    monkeypatch.setattr(timestamps.time, "time_ns", lambda: 1_732_288_000_000_000_000)
    first = a_result(store)
    store._delete(f"{first:.6f}")
    monkeypatch.setattr(timestamps.time, "time_ns", lambda: 1_600_000_000_000_000_000)
    store = again(store)
    assert a_result(store) == first + Decimal("0.000001")
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00 not JSON"),
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text(json.dumps({**MANIFEST.as_dict(), "files": {"../x": 1}})),
        lambda folder: (folder / "mask.png").unlink(),
        lambda folder: (folder / "mask.png").write_bytes(b"longer than before"),
    ],
)
def test_a_damaged_result_is_not_served_and_the_others_are(store, damage, caplog):
    damaged, whole = a_result(store), a_result(store)
    damage(store._folder / f"{damaged:.6f}")
    for opened in (store, again(store)):
        with pytest.raises(UnknownResultError):
            opened.find(damaged)
        assert opened.find(whole).path("mask.png").read_bytes() == b"x"
    assert f"The result {damaged:.6f} is damaged" in caplog.text
    assert (store._folder / f"{damaged:.6f}").is_dir(), "what is damaged is left for a person to look at"
    opened.close()


def rewrite(store: ResultStore, timestamp: Decimal, **changes: object) -> None:
    """Another release's manifest of that result; a key that is None goes."""
    path = store._folder / f"{timestamp:.6f}" / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_manifest_says_its_version_and_one_without_is_read_and_stays_as_it_is(store):
    timestamp = a_result(store)
    path = store._folder / f"{timestamp:.6f}" / "manifest.json"
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION == 1
    rewrite(store, timestamp, schema_version=None, added_by_another_release={"kept": True})
    store.add(store.find(timestamp), "overlay.png", b"overlay")
    content = json.loads(path.read_text())
    assert "schema_version" not in content and content["added_by_another_release"] == {"kept": True}
    assert content["files"] == {"mask.png": 1, "overlay.png": 7}


def test_a_newer_release_s_manifest_is_refused_with_the_reason(store, caplog):
    timestamp = a_result(store)
    rewrite(store, timestamp, schema_version=2, user=None)
    opened = again(store)
    with pytest.raises(UnknownResultError):
        opened.find(timestamp)
    assert "schema_version 2 is a newer release's; this one reads up to 1" in caplog.text
    opened.close()


def test_what_is_wrong_in_a_manifest_is_named_without_its_content(store, caplog):
    timestamp = a_result(store)
    rewrite(store, timestamp, input={"sha256": ["Mustermann"], "bytes": 5})
    again(store).close()
    assert "manifest.json.input.sha256: Input should be a valid string" in caplog.text
    assert "Mustermann" not in caplog.text


def test_folders_and_files_of_others_are_let_alone(store):
    (store._folder / "notes").mkdir()
    (store._folder / "12.5").write_text("a file")
    (store._folder / "1732288000.120000").write_text("a file with a result's name")
    opened = again(store)
    assert opened.stats()["results"] == 0
    opened.close()
    assert (store._folder / "notes").is_dir() and (store._folder / "1732288000.120000").is_file()


def test_old_results_go(store):
    old = a_result(store)
    name, aged = f"{old:.6f}", f"{time.time() - 100:.6f}"
    os.rename(store._folder / name, store._folder / aged)
    store = again(store, max_age_seconds=1000)
    assert store.stats()["results"] == 1
    store = again(store, max_age_seconds=50)
    assert store.stats() == {"results": 0, "queued": 0, "bytes": 0} and folders(store) == []
    fresh = a_result(store)
    assert store.find(fresh).state == "done"
    store.close()


def test_a_clock_that_is_31_days_ahead_for_one_request_deletes_nothing(store, monkeypatch):
    store = again(store, max_age_seconds=30 * 86400)
    before = [a_result(store) for _ in range(3)]
    real, real_ns = time.time, time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(timestamps.time, "time", lambda: real() + 31 * 86400)
        patch.setattr(timestamps.time, "time_ns", lambda: real_ns() + 31 * 86400 * 10**9)
        during = a_result(store)
    with monkeypatch.context() as patch:
        patch.setattr(timestamps.time, "time", lambda: real() + 31 * 86400)
        store._delete(f"{during:.6f}")
        store = again(store, max_age_seconds=30 * 86400)
        assert all(store.find(timestamp).state == "done" for timestamp in before)
    store = again(store, max_age_seconds=30 * 86400)
    assert all(store.find(timestamp).state == "done" for timestamp in [*before, a_result(store)])
    store.close()


def test_the_oldest_go_when_all_are_too_large_but_the_newest_stays(store):
    store = again(store, max_bytes=2500)
    timestamps = [a_result(store, b"x" * 1000) for _ in range(4)]
    assert folders(store) == [f"{timestamp:.6f}" for timestamp in timestamps[-2:]]
    large = a_result(store, b"x" * 9000)
    assert folders(store) == [f"{large:.6f}"]
    store.close()


def test_who_keeps_most_makes_room(store):
    store = again(store, max_bytes=5500)
    of_anna = [a_result(store, b"x" * 1000, user="anna") for _ in range(2)]
    of_ben = [a_result(store, b"x" * 1000, user="ben") for _ in range(8)]
    assert folders(store) == [f"{timestamp:.6f}" for timestamp in (*of_anna, *of_ben[-3:])]
    last = a_result(store, b"x" * 1000, user="anna")
    assert folders(store) == [f"{timestamp:.6f}" for timestamp in (of_anna[1], *of_ben[-3:], last)]
    store = again(store, max_bytes=5500)
    assert len(folders(store)) == 5
    store.close()


@pytest.mark.parametrize("as_series", [False, True])
def test_an_image_that_results_share_counts_once_and_goes_with_the_last_of_them(store, tmp_path, as_series):
    """As on the disk: a click into a series of the server must not push out what was there before."""
    image = tmp_path / "image"
    if as_series:
        image.mkdir()
        for number in range(2):
            (image / f"{number}.dcm").write_bytes(b"i" * 500)
    else:
        image.write_bytes(b"i" * 1000)

    def click(earlier: Decimal | None) -> Decimal:
        with store.new() as pending:
            if earlier is None:
                pending.copy_image(image)
            else:
                pending.take_over(store.find(earlier).folder / "input", "input")
            pending.write("mask.png", b"m" * 100)
            pending.finish(MANIFEST)
        return pending.timestamp

    store = again(store, max_bytes=2500)
    clicks = [click(None)]
    for _ in range(9):
        clicks.append(click(clicks[-1]))
    assert store.stats() == {"results": 10, "queued": 0, "bytes": 2000}
    store = again(store, max_bytes=2500)
    assert store.stats()["bytes"] == 2000
    other = [a_result(store, b"x" * 600, user="other") for _ in range(2)]
    assert folders(store) == [f"{timestamp:.6f}" for timestamp in (*clicks[7:], *other)], "the image stays with three"
    a_result(store, b"x" * 1100, user="other")
    assert store.stats()["bytes"] <= 2500
    store.close()


def test_a_full_disk_is_said_so_and_leaves_the_others(store, monkeypatch):
    kept, queued = a_result(store), a_queued_request(store)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(NoSpaceError, match="no space left"):
            a_result(store)
        with pytest.raises(NoSpaceError, match="no space left"), store.resume(queued) as pending:
            pending.finish(MANIFEST)
    assert folders(store) == [f".{queued:.6f}.queued", f"{kept:.6f}"]
    assert store.find(kept).state == "done" and store.find(queued).state == "queued"
    assert store.find(a_result(store)).state == "done"


def test_files_that_are_added_at_once_are_all_listed_and_counted(store):
    result = store.find(a_result(store))
    names = [f"view-{number}.png" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda name: store.add(result, name, name.encode()), names))
    assert all(after.path(name).read_bytes() == name.encode() for name, after in zip(names, added, strict=True))
    assert sorted(store.find(result.timestamp).manifest.files) == sorted([*names, "mask.png"])
    assert store.stats()["bytes"] == 1 + sum(map(len, names))
    assert not list(result.folder.glob(".*"))
    store._delete(result.folder.name)
    with pytest.raises(UnknownResultError, match="was deleted"):
        store.add(result, "late.png", b"late")


def test_what_is_added_is_on_the_disk_before_it_is_listed(store, monkeypatch):
    result, steps = store.find(a_result(store)), []
    real = {"fsync": os.fsync, "replace": os.replace}

    def fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        steps.append("part" if files.is_leftover(name) else name)
        real["fsync"](descriptor)

    def replace(source: Path, target: Path) -> None:
        steps.append(f"to {target.name}")
        real["replace"](source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    store.add(result, "view.png", b"view")
    folder = result.folder.name
    assert steps == ["part", "to view.png", folder, "part", "to manifest.json", folder]


def test_a_file_whose_listing_fails_is_not_kept(store, monkeypatch):
    result = store.find(a_result(store))
    before = {path.name: path.read_bytes() for path in result.folder.iterdir()}
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "manifest.json":
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(NoSpaceError):
        store.add(result, "view.png", b"view")
    assert {path.name: path.read_bytes() for path in result.folder.iterdir()} == before


def test_a_file_is_taken_over_from_another_result_also_where_links_are_not_possible(store, monkeypatch):
    first = store.find(a_result(store, b"shared"))
    for refuse in (False, True):
        if refuse:
            monkeypatch.setattr(
                files.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here"))
            )
        with store.new() as pending:
            pending.take_over(first.path("mask.png"), "input")
            pending.finish(MANIFEST)
        assert store.find(pending.timestamp).path("input").read_bytes() == b"shared"
    store._delete(f"{first.timestamp:.6f}")
    assert store.find(pending.timestamp).path("input").read_bytes() == b"shared"
    with pytest.raises(UnknownResultError, match="deleted in the meantime"), store.new() as pending:
        pending.take_over(first.folder / "mask.png", "input")


def test_only_the_owner_can_read_results(store):
    a_result(store)
    modes = {path.stat().st_mode & 0o777 for path in [store._folder, *store._folder.iterdir()] if path.is_dir()}
    assert modes == {0o700}
    assert (store._folder / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_second_server_is_refused_until_the_first_is_gone_however_it_went(store, tmp_path):
    with pytest.raises(FolderInUseError, match="another server uses"):
        ResultStore(store._folder)
    assert a_result(store)
    store.close()

    held = tmp_path / "held"
    code = (
        "import sys; from pathlib import Path; from lib.server.rest.results import ResultStore;"
        f"store = ResultStore(Path({str(held)!r})); print('held', flush=True); sys.stdin.read()"
    )
    app = Path(results.__file__).parents[3]
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(app)},
    )
    assert other.stdin and other.stdout and other.stdout.readline() == b"held\n"
    with pytest.raises(FolderInUseError):
        ResultStore(held)
    other.kill()
    other.wait(10)
    other.stdin.close()
    other.stdout.close()
    ResultStore(held).close()


def test_the_manifest_is_json_with_every_file_and_its_size(store):
    timestamp = a_result(store, "mit Ümläuten".encode())
    manifest = json.loads((store._folder / f"{timestamp:.6f}" / "manifest.json").read_text())
    assert manifest["files"] == {"mask.png": len("mit Ümläuten".encode())}


@pytest.fixture
def fronts(tmp_path):
    opened = [ResultStore(tmp_path / "shared", front=number) for number in (0, 7)]
    yield opened
    for one in opened:
        one.close()


def test_servers_that_share_a_folder_find_each_others_results(fronts):
    first, second = fronts
    for made_by, other in (fronts, reversed(fronts)):
        timestamp = a_result(made_by, b"mask")
        assert other.find(timestamp).path("mask.png").read_bytes() == b"mask"
        other.add(other.find(timestamp), "added.png", b"more")
        assert made_by.find(timestamp).path("added.png").read_bytes() == b"more"
        queued = a_queued_request(made_by)
        assert other.find(queued).state == "queued" and queued not in other.queued()
        with pytest.raises(UnknownResultError):
            other.find(timestamp + Decimal("0.000002"))
    assert (first.stats()["results"], second.stats()["results"]) == (1, 1)
    assert [path.name for path in sorted(first._shared.iterdir())] == ["front-0", "front-7"]
    assert first._shared.stat().st_mode & 0o777 == 0o700


def test_only_who_made_a_result_deletes_it(fronts, monkeypatch):
    first, second = fronts
    timestamp = a_result(first)
    monkeypatch.setattr(second, "_max_bytes", 1)
    for _ in range(3):
        a_result(second, b"long enough")
    assert second.stats()["results"] == 1
    assert second.find(timestamp).state == "done"
    first._delete(f"{timestamp:.6f}")
    with pytest.raises(UnknownResultError):
        second.find(timestamp)


def test_two_servers_that_add_files_to_one_result_lose_none(fronts):
    first, second = fronts
    timestamp = a_result(first)
    with ThreadPoolExecutor(2) as pool:
        for place, store in enumerate(fronts):
            pool.submit(lambda p=place, s=store: [s.add(s.find(timestamp), f"{p}-{n}.png", b"x") for n in range(40)])
    for store in (first, second):
        assert len(store.find(timestamp).manifest.files) == 81


def test_a_number_is_for_one_server(fronts):
    with pytest.raises(FolderInUseError, match=r"another server uses .*front-7"):
        ResultStore(fronts[0]._shared, front=7)

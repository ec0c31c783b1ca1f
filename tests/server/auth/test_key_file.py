from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lib.server.auth.api_keys import KeyFileError, make_key
from lib.server.auth.key_file import KeyFile, KeyRing


@pytest.fixture
def file(tmp_path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def add(file: KeyFile, name: str) -> str:
    key, entry = make_key(name, ["user"], None)
    file.add(entry)
    return key


def test_what_is_added_is_read_and_what_is_removed_is_not(file):
    for name in ("a", "b", "c"):
        add(file, name)
    file.remove("b")
    assert [key.name for key in file.read()] == ["a", "c"]
    with pytest.raises(KeyFileError, match="there is a key 'a' already"):
        add(file, "a")
    with pytest.raises(KeyFileError, match="there is no key 'b'"):
        file.remove("b")


def test_the_file_is_its_owners_alone_and_replaced_as_a_whole(file):
    previous = os.umask(0)
    try:
        add(file, "a")
        before = file.path.stat().st_ino
        add(file, "b")
    finally:
        os.umask(previous)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.stat().st_ino != before
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.json"]


def test_a_failed_write_leaves_the_old_file(file, monkeypatch):
    add(file, "a")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        add(file, "b")
    assert [key.name for key in file.read()] == ["a"]
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(file, mode):
    add(file, "a")
    file.path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
        file.read()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"keys": {}}x', '{"keys": [1]}', '{"keys": [{"name": "a"}]}', "[" * 100_000, "\x00\xff"],
)
def test_a_file_that_holds_something_else_is_refused(file, content):
    file.path.write_bytes(content.encode("latin-1"))
    file.path.chmod(0o600)
    with pytest.raises(KeyFileError, match="is not a file of API keys"):
        file.read()


def test_other_unusable_files(file, tmp_path):
    with pytest.raises(KeyFileError, match=r"scripts/keys --file .* add NAME"):
        file.read()
    with pytest.raises(KeyFileError, match="Is a directory"):
        KeyFile(tmp_path).read()
    add(file, "a")
    entry = json.loads(file.path.read_text())["keys"][0]
    file.path.write_text(json.dumps({"keys": [entry, entry]}))
    with pytest.raises(KeyFileError, match="names a key twice"):
        file.read()


def _add_twenty(path: Path, worker: int, barrier: Barrier) -> None:
    barrier.wait(60)
    for number in range(20):
        add(KeyFile(path), f"{worker}-{number}")


def test_processes_that_add_at_the_same_time_lose_nothing(file):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_add_twenty, args=(file.path, number, barrier)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(file.read()) == 60


def test_a_ring_follows_the_file(file):
    first = add(file, "first")
    ring = KeyRing(file)
    found = ring.find(first)
    assert found is not None and found.name == "first"
    assert (
        ring.find(first + "x") is None
        and ring.find("") is None
        and ring.find("é\udcff".encode("utf-8", "replace").decode()) is None
    )
    second = add(file, "second")
    found = ring.find(second)
    assert found is not None and found.name == "second"
    file.remove("first")
    assert ring.find(first) is None and ring.find(second) is not None


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text("{"),
        lambda path: path.chmod(0o644),
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
    ],
    ids=["broken", "opened", "gone", "empty"],
)
def test_a_ring_holds_no_key_while_its_file_is_harmed(file, harm, caplog):
    key = add(file, "a")
    ring = KeyRing(file)
    good = file.path.read_bytes()
    harm(file.path)
    for _ in range(3):
        assert ring.find(key) is None
    assert caplog.text.count("No API key is accepted until this is fixed") == 1 and key not in caplog.text
    file.path.write_bytes(good)
    file.path.chmod(0o600)
    assert ring.find(key) is not None


def test_a_ring_needs_a_usable_file_to_begin_with(file):
    with pytest.raises(KeyFileError):
        KeyRing(file)

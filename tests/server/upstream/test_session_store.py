from __future__ import annotations

import io
import json
import os
import stat
import time
import uuid
from pathlib import Path

import pytest

from lib.server.upstream.session_store import SessionStore


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def store(folder) -> SessionStore:
    return SessionStore(str(folder), 3600)


def add(store: SessionStore, *names: str, expiry: int = 0, owner: str = "ann"):
    return store.add([(name, io.BytesIO(name.encode())) for name in names], expiry, owner)


def test_everything_of_a_session_is_private_and_its_id_is_random(store, folder):
    session = add(store, "a.nii.gz")
    assert uuid.UUID(session.name).version == 4
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["meta.info", "image", ".part", "a.nii.gz"])
def test_an_image_can_be_called_as_the_session_s_own_files_are(store, name):
    session = add(store, name)
    assert Path(session.image).read_bytes() == name.encode()
    assert store.get_session(session.name).owner == "ann"


def test_several_files_are_one_image(store):
    session = add(store, "1.dcm", "meta.info")
    assert sorted(os.listdir(session.image)) == ["1.dcm", "meta.info"]


def test_sessions_outlive_a_restart(store, folder):
    session = add(store, "a.nii.gz", expiry=100)
    again = SessionStore(str(folder), 3600)
    found = again.get_session(session.name)
    assert vars(found) == vars(session)


def test_the_server_s_expiry_is_the_longest(store):
    assert add(store, "a.nii", expiry=10**30).expiry == 3600
    assert add(store, "a.nii", expiry=-1).expiry == 3600
    assert add(store, "a.nii", expiry=5).expiry == 5


def _age(folder: Path, session_id: str, seconds: int) -> None:
    """As if a session had been used so long ago."""
    file = folder / session_id / "meta.info"
    description = json.loads(file.read_bytes())
    description["last_access_ts"] -= seconds
    file.write_text(json.dumps(description))


def test_an_expired_session_is_gone_also_after_a_restart(store, folder):
    expired, kept = add(store, "a.nii"), add(store, "b.nii")
    _age(folder, expired.name, 3700)
    again = SessionStore(str(folder), 3600)
    assert again  # upstream cleans up only what counts as true
    assert again.get_session(expired.name) is None
    assert again.remove_expired() == 1
    assert os.listdir(folder) == [kept.name]


@pytest.mark.parametrize(
    "description",
    [b"", b"[]", b"{", b"\xff", b'{"image": "/etc/passwd"}', b'{"image": 3}', b"[" * 100_000, b'{"expiry": 1e999}'],
)
def test_a_damaged_session_is_none_and_goes_when_its_time_is_over(store, folder, description):
    session, kept = add(store, "a.nii"), add(store, "b.nii")
    (folder / session.name / "meta.info").write_bytes(description)
    again = SessionStore(str(folder), 3600)
    assert again.get_session(session.name) is None
    assert again.remove_expired() == 0
    long_ago = time.time() - 3700
    os.utime(folder / session.name, (long_ago, long_ago))
    assert again.remove_expired() == 1
    assert os.listdir(folder) == [kept.name]


def test_what_a_killed_server_left_half_written_goes(store, folder):
    add(store, "a.nii")
    left = folder / f".{uuid.uuid4()}.part"
    left.mkdir()
    os.utime(left, (0, 0))
    (folder / "someone else's").mkdir()
    os.utime(folder / "someone else's", (0, 0))
    assert store.remove_expired() == 1
    assert not left.exists() and (folder / "someone else's").exists()


def test_a_session_that_cannot_be_written_leaves_nothing(store, folder):
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.add([("a.nii", Failing())], 0, "ann")
    assert os.listdir(folder) == []


def test_a_use_is_written_once_a_minute(store, folder):
    session = add(store, "a.nii")
    file = folder / session.name / "meta.info"
    before = file.stat().st_ino
    store.get_session(session.name)
    assert file.stat().st_ino == before
    session.last_access_ts -= 61
    store.get_session(session.name)
    assert file.stat().st_ino != before
    assert json.loads(file.read_bytes())["last_access_ts"] == session.last_access_ts


@pytest.mark.parametrize("session_id", ["..", "", ".", "a/b", "00000000-0000-0000-0000-00000000000g"])
def test_what_is_no_id_is_no_session(store, session_id):
    assert store.get_session(session_id) is None
    store.remove_session(session_id)


def test_whoever_keeps_something_of_a_session_hears_of_its_end(folder):
    heard = []
    store = SessionStore(str(folder), 3600, lambda: heard.append(os.listdir(folder)))
    session = add(store, "a.nii.gz")
    assert heard == []
    store.remove_session(session.name)
    assert heard == [[]], "its files are gone by then"

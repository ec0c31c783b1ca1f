"""The audit log's file and its entries."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import threading
from contextlib import suppress

import pytest

from lib.base.request_record import RequestRecord
from lib.server.observe import audit as module
from lib.server.observe.audit import (
    KEPT_FILES,
    AuditLog,
    AuditLogError,
    audit_entry,
    has_unknown_user,
    is_audited,
    outcome_of,
    unknown_users_file,
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_entry_says_all_that_is_known_and_null_for_the_rest():
    record = RequestRecord(user="key:anna", client="192.0.2.7", route="/infer/{model}", prompts={"foreground": 2})
    entry = audit_entry(record, 0.0123, kind="request", method="POST", status=200, outcome="ok")
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "request_id": record.request_id,
        "kind": "request",
        "user": "key:anna",
        "client": "192.0.2.7",
        "method": "POST",
        "route": "/infer/{model}",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "latency_ms": 12.3,
        "timestamp": None,
        "image_sha256": None,
        "model": None,
        "checkpoint_sha256": None,
        "prompts": {"foreground": 2},
    }


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ok"), (307, "ok"), (404, "refused"), (500, "failed"), (None, "disconnected")]
)
def test_the_status_tells_the_outcome(status, outcome):
    assert outcome_of(status) == outcome


def test_what_touches_images_results_or_logins_is_audited_and_what_was_denied():
    for route in ("/segment_input_image/", "/infer/{model}", "/datastore/label", "/proxy/dicom/{path:path}", "/logs/"):
        assert is_audited(route, 200)
    for route in ("/health_check/", "/info/", "/ohif/{path:path}", "/metrics", "/static", "unmatched"):
        assert not is_audited(route, 200)
        assert is_audited(route, 401) and is_audited(route, 403)


def test_the_file_and_its_folder_are_made_for_the_servers_user_alone(tmp_path):
    path = tmp_path / "new" / "audit.jsonl"
    log = AuditLog(path, max_bytes=0)
    log.write({"n": 1})
    log.write({"n": "é\n"})
    assert lines(path) == [{"n": 1}, {"n": "é\n"}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    log.close()


def test_an_older_file_is_gone_on_with_and_closed_to_others(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text('{"n":0}\n')
    path.chmod(0o644)
    log = AuditLog(path, max_bytes=0)
    log.write({"n": 1})
    assert lines(path) == [{"n": 0}, {"n": 1}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()


class CountingFile(io.FileIO):
    """A file that remembers what each write system call was given."""

    def __init__(self, path):
        super().__init__(path, "a")
        self.writes = []

    def write(self, data):
        self.writes.append(bytes(data))
        return super().write(data)


def test_each_entry_is_one_write(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=1000)
    file = CountingFile(tmp_path / "audit.jsonl")
    log._handler.stream.close()
    log._handler.stream = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8")
    log.write({"n": 1})
    log.write({"n": 2})
    log.close()
    assert file.writes == [b'{"n":1}\n', b'{"n":2}\n']


def test_full_files_are_put_aside_closed_to_others_and_the_oldest_go(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, max_bytes=50)
    for n in range(100):
        log.write({"n": n, "filling": "x" * 20})
    log.close()
    files = [tmp_path / f"audit.jsonl.{n}" for n in range(KEPT_FILES, 0, -1)] + [path]
    assert sorted(tmp_path.glob("*.jsonl*")) == sorted([*files, tmp_path / "audit.jsonl.in-flight"])
    assert all(file.stat().st_size <= 50 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert [entry["n"] for file in files for entry in lines(file)] == list(range(100 - KEPT_FILES - 1, 100))


def test_threads_write_whole_lines(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, max_bytes=2000)

    def write(thread):
        for n in range(50):
            log.write({"id": [thread, n]})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = [tuple(entry["id"]) for file in tmp_path.iterdir() for entry in lines(file)]
    assert sorted(found) == [(thread, n) for thread in range(8) for n in range(50)]


@pytest.mark.parametrize("place", ["a file/audit.jsonl", "a folder"])
def test_where_nothing_can_be_written_the_log_cannot_be_made(tmp_path, place):
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(AuditLogError, match=r"audit log .* cannot be written: ."):
        AuditLog(tmp_path / place, max_bytes=0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_line_that_cannot_be_written_goes_into_the_servers_log_and_is_counted(tmp_path, caplog):
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=0)
    log._handler.stream.close()
    with suppress(OSError), open("/dev/full", "w") as full:
        log._handler.stream = full
        with caplog.at_level(logging.ERROR):
            log.write({"n": 1})
    assert log.lost == 1
    assert 'could not be written (OSError): {"n":1}' in caplog.text


def entry_of(status: int, user: str | None = None, kind: str = "request", method: str = "GET") -> dict:
    return audit_entry(RequestRecord(user=user), 0, kind=kind, method=method, status=status, outcome=outcome_of(status))


@pytest.mark.parametrize("status", [401, 403, 421])
def test_refusals_of_nobody_known_put_nothing_aside(tmp_path, monkeypatch, caplog, status):
    monkeypatch.setattr(module, "_MAX_UNAUTHENTICATED_PER_MINUTE", 5)
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=2000)
    log.write(entry_of(200, "key:anna"))
    log.write(entry_of(403, "key:anna"))
    for _ in range(5000):
        log.write(entry_of(status))
    assert [entry["user"] for entry in lines(tmp_path / "audit.jsonl")] == ["key:anna"] * 2
    assert [entry["status"] for entry in lines(unknown_users_file(tmp_path / "audit.jsonl"))][-1] == status
    assert len(list(tmp_path.iterdir())) <= 4
    log._minute_began -= 60
    log.write(entry_of(status))
    assert "4995 refused requests are not in the audit log" in caplog.text
    log.close()


def test_with_a_login_whoever_has_none_is_nobody(monkeypatch):
    assert not has_unknown_user(entry_of(200)) and not has_unknown_user(entry_of(422))
    monkeypatch.setattr(module.settings, "MONAI_LABEL_AUTH_ENABLE", True)
    assert has_unknown_user(entry_of(200)) and has_unknown_user(entry_of(422, method="POST"))
    assert not has_unknown_user(entry_of(200, method="POST")), "a login"
    assert not has_unknown_user(entry_of(200, kind="job")) and not has_unknown_user(entry_of(403, "key:anna"))

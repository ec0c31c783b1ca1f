from __future__ import annotations

import json

import pytest

from lib.base.request_record import RequestRecord
from lib.server.observe.audit import AuditLog, InFlight, entry_if_killed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "in-flight"


def test_what_was_not_done_when_the_server_ended_is_told_once(path):
    first = InFlight(path)
    slots = [first.begin({"number": number}) for number in range(3)]
    first.end(slots[1])
    first.begin({"number": 3})
    second = InFlight(path)  # the first is killed
    assert sorted(entry["number"] for entry in second.left) == [0, 2, 3]
    assert InFlight(path).left == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_entry_that_is_too_long_and_a_torn_file_harm_nothing(path):
    flight = InFlight(path)
    flight.end(flight.begin({"user": "x" * 5000}))
    path.write_bytes(b'{"number": 1}\n{"number":\n\xff\xff\n[]\n')
    assert InFlight(path).left == [{"number": 1}]


def test_the_next_server_writes_them_into_the_audit_log(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=0)
    log.in_flight.begin(entry_if_killed(RequestRecord(user="ann", route="/infer/{model}"), method="POST"))
    AuditLog(tmp_path / "audit.jsonl", max_bytes=0).close()
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["user"], entry["outcome"], entry["reason"]) == ("ann", "failed", "ServerEnded")
    log.close()

"""scripts/audit.py as a command: what it shows of a log that the server's own code wrote."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import audit
from lib.base.request_record import RequestRecord
from lib.server.observe.audit import AuditLog, audit_entry

REPOSITORY = Path(__file__).resolve().parents[2]
ANNA = RequestRecord(
    user="key:anna",
    client="192.0.2.7",
    route="/segment_input_image/",
    timestamp="1732288000.120000",
    image_sha256="ab" * 32,
    model="sam_tiny",
    checkpoint_sha256="cd" * 32,
    prompts={"rectangles": 1, "positive_points": 2, "negative_points": 0},
)
BEN = RequestRecord(user="ben", client="192.0.2.8", route="/datastore/label", reason="UnknownImageError")
NOBODY = RequestRecord(client="192.0.2.9", route="/infer/{model}", reason="NoLoginError")


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """These tests' machine is in London in winter."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def log(tmp_path) -> Path:
    """One entry a day from 1 March 2025, in three files."""
    writer = AuditLog(tmp_path / "audit.jsonl", max_bytes=1000)
    requests = [(ANNA, "POST", 200, "ok"), (BEN, "GET", 404, "refused"), (NOBODY, "POST", 401, "refused")]
    for day, (record, method, status, outcome) in enumerate([*requests, *requests], 1):
        entry = audit_entry(record, 0.25, kind="request", method=method, status=status, outcome=outcome)
        writer.write({**entry, "time": f"2025-03-0{day}T12:00:00.000Z"})
    job = audit_entry(ANNA, 1.5, kind="job", method=None, status=500, outcome="failed")
    writer.write({**job, "time": "2025-03-07T12:00:00.000Z"})
    writer.close()
    assert len(list(tmp_path.iterdir())) >= 3
    return tmp_path / "audit.jsonl"


@pytest.fixture
def days(log, capsys):
    """Days in March of the entries that options find."""

    def find(*options: str) -> list[int]:
        assert audit.main(["--file", str(log), "--json", *options]) == 0
        return [int(json.loads(line)["time"][8:10]) for line in capsys.readouterr().out.splitlines()]

    return find


def test_files_that_were_put_aside_come_first(days):
    assert days() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--since", "2025-03-03T12:00"], [3, 4, 5, 6, 7]),
        (["--since", "2025-03-03T13:00+01:00", "--until", "2025-03-05 12:00"], [3, 4]),
        (["--until", "2025-03-02"], [1]),
        (["--user", "ben"], [2, 5]),
        (["--user", "be"], []),
        (["--route", "/datastore"], [2, 5]),
        (["--timestamp", "1732288000.12"], [1, 4, 7]),
        (["--timestamp", "1732288000"], []),
        (["--image", "ABAB"], [1, 4, 7]),
        (["--outcome", "refused"], [2, 3, 5, 6]),
        (["--status", "401"], [3, 6]),
        (["--status", "401", "--since", "2025-03-04"], [6]),
    ],
)
def test_options_narrow_down(days, options, found):
    assert days(*options) == found


def test_json_is_the_lines_as_they_are_of_both_logs_in_their_order(log, capsys):
    audit.main(["--file", str(log), "--json"])
    lines = [line for file in log.parent.glob("audit.*") for line in file.read_text().splitlines()]
    assert log.with_name("audit.nobody.jsonl").is_file()
    assert capsys.readouterr().out.splitlines() == sorted(lines, key=lambda line: json.loads(line)["time"])


def test_the_table_shows_an_entry_a_line(log, capsys):
    audit.main(["--file", str(log), "--since", "2025-03-04"])
    head, first, second, third, job = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["time", "user", "client", "method"]
    assert first.split() == [
        *("2025-03-04", "12:00:00.000", "key:anna", "192.0.2.7", "POST", "/segment_input_image/", "200", "ok", "250.0"),
        *("1732288000.120000", "abababababab", "sam_tiny", "rectangles=1", "positive_points=2"),
    ]
    assert second.split()[2:] == [
        *("ben", "192.0.2.8", "GET", "/datastore/label", "404", "refused", "250.0", "-", "-", "-", "UnknownImageError")
    ]
    assert third.split()[2] == "-" and third.endswith("NoLoginError")
    assert "(job)" in job and job.split()[6:8] == ["500", "failed"]
    assert first.index("abababababab") == head.index("image")


def test_the_summary_counts_by_user_and_outcome(log, capsys):
    audit.main(["--file", str(log), "--summary"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["user", "ok", "refused", "failed", "disconnected", "timeout", "all"],
        ["-", "0", "2", "0", "0", "0", "2"],
        ["ben", "0", "2", "0", "0", "0", "2"],
        ["key:anna", "2", "0", "1", "0", "0", "3"],
        ["all", "2", "4", "1", "0", "0", "7"],
    ]


def test_a_torn_line_is_told_and_passed_over(log, days, capsys):
    with log.open("a") as file:
        file.write('{"time":"2025-03-08T12:00:0\n[]\n{"time": 3}\n')
    assert audit.main(["--file", str(log), "--json"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 7
    assert shown.err.count("is no entry") == 3 and str(log) in shown.err


def test_without_a_log_it_says_so(tmp_path, capsys):
    assert audit.main(["--file", str(tmp_path / "audit.jsonl")]) == 1
    assert "there is no audit log" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--timestamp", "doe"], ["--json", "--summary"]])
def test_a_wrong_call_says_what_is_wrong(log, options, capsys):
    with pytest.raises(SystemExit) as end:
        audit.main(["--file", str(log), *options])
    assert end.value.code == 2 and "scripts/audit: error" in capsys.readouterr().err


def test_the_command_runs_and_stops_when_its_reader_does(log):
    command = [str(REPOSITORY / "scripts" / "audit"), "--file", str(log), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 7
    with log.open("a") as file:
        file.write(log.read_text() * 2000)  # more than a pipe holds
    read_end, write_end = os.pipe()
    process = subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    os.read(read_end, 100)
    os.close(read_end)
    _, errors = process.communicate(timeout=60)
    assert errors == ""

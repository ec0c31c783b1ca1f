"""``scripts/keys`` as an operator calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lib.server.auth.api_keys import digest

REPOSITORY = Path(__file__).resolve().parents[2]


def keys(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    call = [str(REPOSITORY / "scripts" / "keys"), "--file", str(file), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "new folder" / "keys.json"


def test_add_prints_the_key_alone_and_keeps_its_digest_alone(file):
    done = keys(file, "add", "viewer", "--role", "user", "--role", "annotator", "--days", "30")
    assert done.returncode == 0, done.stderr
    key = done.stdout.removesuffix("\n")
    assert key.startswith("sam_") and key.split() == [key]
    assert key not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    (entry,) = json.loads(file.read_text())["keys"]
    assert (entry["name"], entry["roles"]) == ("viewer", ["user", "annotator"]) and entry["sha256"] == digest(key)


def test_list_and_remove(file):
    for name, *more in (("viewer",), ("chief", "--role", "user", "--role", "admin"), ("guest", "--days", "0.0000001")):
        assert keys(file, "add", name, *more).returncode == 0
    listed = keys(file, "list").stdout
    rows = {line.split()[0]: line for line in listed.splitlines()[1:]}
    assert "never" in rows["viewer"] and " user " in rows["viewer"]
    assert "user, admin" in rows["chief"] and rows["guest"].endswith("(expired)")
    assert not any(entry["sha256"] in listed for entry in json.loads(file.read_text())["keys"])
    assert keys(file, "remove", "viewer").returncode == 0
    assert "viewer" not in keys(file, "list").stdout


def test_what_cannot_be_done_is_said(file):
    missing = keys(file, "list")
    assert missing.returncode == 1 and "there is no" in missing.stderr and "Traceback" not in missing.stderr
    keys(file, "add", "viewer")
    for arguments, said in (
        (["add", "viewer"], "there is a key 'viewer' already"),
        (["add", "a b"], "not a valid name for a key"),
        (["add", "b", "--days", "-1"], "more than 0 days"),
        (["remove", "nobody"], "there is no key 'nobody'"),
    ):
        done = keys(file, *arguments)
        assert (done.returncode, done.stdout) == (1, "") and said in done.stderr and "Traceback" not in done.stderr
    assert keys(file, "add", "b", "--role", "root").returncode == 2
    file.chmod(0o644)
    assert "chmod 600" in keys(file, "list").stderr

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lib.base.scratch import PREFIX, scratch_file, scratch_files
from support.server_process import SAM_APP

SERVER = """
import sys, tempfile
from lib.base.scratch import use_scratch_folder
folder = use_scratch_folder()
open(folder / "upload", "wb").write(b"pixels")
tempfile.NamedTemporaryFile(delete=False)
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that has a scratch folder with two files in it, below ``tmp_path``."""
    started: list[subprocess.Popen] = []

    def start() -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(SAM_APP)},
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_folder_is_private_and_tempfile_uses_it(start, tmp_path):
    _, folder = start()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 2


def test_what_a_killed_server_left_is_removed_by_the_next_one(start, tmp_path):
    killed, _ = start()
    killed.kill()
    killed.wait()
    _, folder = start()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_living_server_s_files_stay(start, tmp_path):
    _, first = start()
    _, second = start()
    assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert len(list(first.iterdir())) == 2


def test_the_folder_is_gone_at_an_orderly_end(start, tmp_path):
    process, folder = start()
    process.communicate()
    assert process.returncode == 0
    assert not folder.exists()


def test_links_and_files_of_such_a_name_are_not_followed(start, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{PREFIX}file").write_bytes(b"")
    start()
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert (tmp_path / f"{PREFIX}file").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_another_user_s_folder_of_such_a_name_stays(start, tmp_path):
    foreign = tmp_path / f"{PREFIX}foreign"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    start()
    assert foreign.exists()


def test_scratch_files_are_gone_whatever_happens():
    with pytest.raises(ZeroDivisionError), scratch_files():
        path = Path(scratch_file(".nrrd"))
        assert path.suffix == ".nrrd" and stat.S_IMODE(path.stat().st_mode) == 0o600
        removed = Path(scratch_file())
        removed.unlink()
        _ = 1 / 0
    assert not path.exists()


def test_outside_of_any_request_the_caller_removes_them():
    path = Path(scratch_file())
    assert path.parent == Path(tempfile.gettempdir())
    path.unlink()

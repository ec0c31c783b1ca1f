"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lib.base import files
from lib.base.files import atomic_write, is_full, is_leftover, link_or_copy, move, remove_leftovers, restored_on_error

APP = Path(files.__file__).parents[2]


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "file").write_bytes(b"before")
    return tmp_path / "file"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """What was brought down to the disk, in its order; ``aside`` for a file under its first name."""
    seen: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        seen.append("aside" if is_leftover(name) else name)
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    return seen


def test_the_file_before_stays_until_the_new_one_is_whole(path, synced):
    with atomic_write(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before" and is_leftover(Path(file.name).name)
    assert path.read_bytes() == b"after" and names(path.parent) == ["file"]
    assert synced == ["aside", path.parent.name]


def test_a_writer_may_open_the_path_by_itself(path):
    with atomic_write(path) as file:
        Path(file.name).write_bytes(b"after")
    assert path.read_bytes() == b"after"


def test_what_may_be_lost_does_not_wait_for_the_disk(path, synced):
    with atomic_write(path, durable=False) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after" and synced == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there_and_nothing_else(path, error):
    for target, left in ((path, b"before"), (path.with_name("new"), None)):
        with pytest.raises(error), atomic_write(target) as file:
            file.write(b"half")
            raise error
        assert (target.read_bytes() if target.exists() else None) == left
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_any_step_leaves_what_was_there(path, step, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="broken"), atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"before" and names(path.parent) == ["file"]


def test_a_file_system_that_knows_no_fsync_is_not_an_error(path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after"


def test_modes(path):
    old = os.umask(0o027)
    try:
        for private, mode in ((True, 0o600), (False, 0o640)):
            with atomic_write(path, private=private):
                pass
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_several_files_are_as_they_were_if_something_fails(path):
    new = path.with_name("new")
    for files_before in ({"file": b"before"}, {}):
        with pytest.raises(RuntimeError), restored_on_error([path, new]):
            for one in (path, new):
                with atomic_write(one) as file:
                    file.write(b"after")
            raise RuntimeError
        assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == files_before
        path.unlink(missing_ok=True)


def test_a_removed_file_comes_back_if_something_fails(path):
    with pytest.raises(RuntimeError), restored_on_error([path]):
        path.unlink()
        raise RuntimeError
    assert path.read_bytes() == b"before" and names(path.parent) == ["file"]


def test_without_an_error_the_new_files_stay(path):
    with restored_on_error([path]), atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after" and names(path.parent) == ["file"]


def test_where_there_are_no_links_a_file_is_copied(path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    link_or_copy(path, path.with_name("other"))
    assert path.with_name("other").read_bytes() == b"before"
    test_several_files_are_as_they_were_if_something_fails(path.with_name("other").rename(path))


def test_a_folder_gets_its_name(tmp_path):
    (tmp_path / "a").mkdir()
    move(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from lib.base.files import atomic_write\n"
        f"with atomic_write(Path({str(tmp_path / 'file')!r})) as file:\n"
        "    file.write(b'half'); file.flush(); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(APP)}
    ) as process:
        assert process.stdout and process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    (tmp_path / ".notes.part").touch()
    [left] = [name for name in names(tmp_path) if is_leftover(name)]
    remove_leftovers(tmp_path)
    assert left and names(tmp_path) == [".notes.part"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_by_its_errors(number):
    assert is_full(OSError(number, "")) and not is_full(OSError(errno.EIO, "")) and not is_full(ValueError())


def test_it_needs_the_standard_library_alone():
    code = "import lib.base.files, sys; print(','.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(APP)},
    )
    assert set(done.stdout.strip().split(",")) - set(sys.stdlib_module_names) <= {"lib", "__main__"}

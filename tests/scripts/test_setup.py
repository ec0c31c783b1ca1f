"""scripts/setup with a Python that only pretends: what it installs is what it writes into its log."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup"

FAKE_PYTHON = """#!/usr/bin/env bash
# Stands for Python (and, by the names it is copied to, for uv): answers its version, makes folders for environments.
echo "$(basename "$0") $*" >>"$FAKE_LOG"
case "$*" in
    *sys.version_info*) echo "VERSION" ;;
    *ensurepip*) [ -z "${FAKE_NO_ENSUREPIP:-}" ] ;;
    "-I -m venv "*) mkdir -p "$4/bin" && touch "$4/pyvenv.cfg" && cp "$0" "$4/bin/python" ;;
    *"pip install"*uv==*) cp "$0" "$(dirname "$0")/uv" ;;
    *"pip install"*monailabel==*) cp "$0" "$(dirname "$0")/monailabel" ;;
    "pip sync"*) sleep "${FAKE_SYNC_SECONDS:-0}"; [ -z "${FAKE_SYNC_FAILS:-}" ] ;;
esac
"""


class Clone:
    """A repository with nothing but the set-up, in a folder with spaces."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone"
        self.log = folder / "log"
        self.python = folder / "fake python" / "python3"
        self.venv = self.root / ".venv"
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(SETUP, self.root / "scripts" / "setup")
        self.lock = self.root / "requirements.txt"
        self.lock.write_text("monailabel==0.8.5\n    # via -r requirements.in\n")
        (self.root / "requirements-dev.txt").write_text("pytest==9\n")
        self.python.parent.mkdir()
        self.pretend("python3", "3.11.7")

    def pretend(self, name: str, version: str) -> None:
        """Makes a fake Python of that version, for PATH or to be :attr:`python`."""
        self.python = self.python.with_name(name)
        self.python.write_text(FAKE_PYTHON.replace("VERSION", version))
        self.python.chmod(0o755)

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Starts the set-up from another directory."""
        fakes = {"PYTHON": str(self.python), "FAKE_LOG": str(self.log), **environment}
        return subprocess.Popen(
            [str(self.root / "scripts" / "setup"), *options],
            cwd="/",
            env={"PATH": os.environ["PATH"], **fakes},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the set-up to its end."""
        process = self.start(*options, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def installs(self) -> list[str]:
        """What was asked of uv since the last call."""
        lines = [line for line in self.log.read_text().splitlines() if "pip sync" in line]
        self.log.write_text("")
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_first_run_installs_the_lock_and_mends_the_monailabel_command(clone: Clone) -> None:
    done = clone.run()
    assert done.returncode == 0, done.stderr
    log = clone.log.read_text()
    assert f"uv pip sync --python {clone.venv}/bin/python {clone.lock}\n" in log
    assert "pip install --quiet --no-deps --force-reinstall monailabel==0.8.5\n" in log
    assert (clone.venv / "bin" / "monailabel").exists()


def test_second_run_does_nothing_and_is_quick(clone: Clone) -> None:
    clone.run()
    clone.installs()
    began = time.monotonic()
    again = clone.run()
    assert time.monotonic() - began < 1
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert clone.installs() == []


@pytest.mark.parametrize("version", ["3.9.18", "3.12.1", "3.13.0", "2.7.18", "3.1.5"])
def test_another_python_is_refused_before_anything_is_made(clone: Clone, version: str) -> None:
    clone.pretend("python3", version)
    done = clone.run()
    assert done.returncode == 1
    assert "Python 3.10 or 3.11 is needed" in done.stderr
    assert version in done.stderr
    assert "PYTHON=/path/to/python3.11" in done.stderr
    assert not clone.venv.exists()


def test_a_python_that_is_not_there_is_named(clone: Clone) -> None:
    done = clone.run(PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "/no/such/python is not there" in done.stderr


def test_the_first_python_on_path_that_fits_is_taken(clone: Clone) -> None:
    for name, version in (("python3.11", ""), ("python3.10", "3.10.4"), ("python3", "3.12.0")):
        clone.pretend(name, version)
    done = clone.run("--which-python", PYTHON="", PATH=f"{clone.python.parent}:{os.environ['PATH']}")
    assert done.stdout == "python3.10\n", done.stderr


def test_a_python_without_ensurepip_says_which_package_to_install(clone: Clone) -> None:
    done = clone.run(FAKE_NO_ENSUREPIP="1")
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


def test_a_changed_lock_is_installed(clone: Clone) -> None:
    clone.run()
    clone.installs()
    clone.lock.write_text("monailabel==0.8.5\nnumpy==1\n")
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1
    assert clone.run().returncode == 0
    assert clone.installs() == []


def test_dev_adds_the_test_tools_and_running_keeps_them(clone: Clone) -> None:
    clone.run()
    clone.installs()
    assert clone.run("--dev").returncode == 0
    (line,) = clone.installs()
    assert line.endswith(f"{clone.lock} {clone.root}/requirements-dev.txt")
    clone.run()
    clone.run("--dev")
    assert clone.installs() == []


def test_an_interrupted_set_up_is_done_again(clone: Clone) -> None:
    assert clone.run(FAKE_SYNC_FAILS="1").returncode != 0
    clone.installs()
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1


def test_a_failed_update_does_not_count_as_the_old_set_up(clone: Clone) -> None:
    clone.run()
    before = clone.lock.read_text()
    clone.lock.write_text(before + "numpy==1\n")
    assert clone.run(FAKE_SYNC_FAILS="1").returncode != 0
    clone.lock.write_text(before)
    clone.installs()
    assert clone.run().returncode == 0
    assert len(clone.installs()) == 1


def test_a_moved_clone_gets_a_new_environment(clone: Clone) -> None:
    clone.run()
    (clone.venv / "old").touch()
    moved = clone.root.with_name("moved")
    clone.root.rename(moved)
    clone.root, clone.venv = moved, moved / ".venv"
    assert clone.run().returncode == 0
    assert not (clone.venv / "old").exists()


def test_another_python_version_gets_a_new_environment(clone: Clone) -> None:
    clone.pretend("python3.10", "3.10.4")
    clone.run()
    (clone.venv / "old").touch()
    clone.pretend("python3.11", "3.11.7")
    assert clone.run().returncode == 0
    assert not (clone.venv / "old").exists()


def test_a_folder_that_is_no_environment_is_left_alone(clone: Clone) -> None:
    clone.venv.mkdir()
    (clone.venv / "mine").write_text("precious")
    done = clone.run()
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert (clone.venv / "mine").read_text() == "precious"


def test_two_at_once_install_once(clone: Clone) -> None:
    processes = [clone.start(FAKE_SYNC_SECONDS="1") for _ in range(2)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(clone.installs()) == 1


def test_help_and_unknown_options(clone: Clone) -> None:
    assert "Usage: scripts/setup" in clone.run("--help").stdout
    done = clone.run("--fast")
    assert done.returncode == 1
    assert "unknown option --fast" in done.stderr
    assert not clone.venv.exists()

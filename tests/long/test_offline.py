"""A bundle of the whole lock installs and serves where there is no network, from an empty home and empty caches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.no_network import without_network

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.long, pytest.mark.server]


def run(what: str, command: list[str | Path], **environment: str) -> None:
    """Run a command to its good end, and print how long it took."""
    began = time.monotonic()
    words = list(map(str, command))
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    print(f"{what}: {time.monotonic() - began:.0f} s\n{done.stdout}")


def size(path: Path) -> str:
    """What a folder or file takes on the disk."""
    return subprocess.run(["du", "-sh", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.mark.timeout(3600)
def test_a_bundle_serves_without_a_network(tmp_path: Path) -> None:
    """Of what is committed, with the build of PyTorch that is installed here."""
    offline = without_network()
    file, folder, home = tmp_path / "sam-app.tar.zst", tmp_path / "sam app", tmp_path / "home"
    home.mkdir()
    run("made", [ROOT / "scripts" / "bundle", "make", "--output", file], **os.environ)
    machine = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}
    outside = [sys.executable, "-c", "import socket; socket.create_connection(('1.1.1.1', 53), 3)"]
    assert subprocess.run([*offline, *outside], capture_output=True, check=False).returncode != 0
    try:
        run("installed", [*offline, ROOT / "scripts" / "bundle", "install", file, folder], **machine)
        print(f"{size(file)} the file, {size(folder / 'wheels')} unpacked wheels, {size(folder / '.venv')} .venv")
        assert not (home / ".cache").exists()
        run("served, and all routes asked", [*offline, folder / "scripts" / "start", "--demo"], **machine)
        assert len(list((folder / "demo").iterdir())) >= 5
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        file.unlink(missing_ok=True)

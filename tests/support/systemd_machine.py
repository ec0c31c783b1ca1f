"""A machine with systemd as process 1: namespaces of this one, and a file system that is thrown away."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

_BOOT = Path(__file__).with_suffix(".sh")
_PROGRAMS = ("/lib/systemd/systemd", "unshare", "pivot_root", "script", "ip")
_GROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


def boot(folder: Path, files: Mapping[str, str], *, seconds: float) -> str:
    """Boot into ``test.target`` and wait until a unit says ``SuccessAction=exit`` or ``FailureAction=exit``.

    The test is skipped, with the reason, where that cannot be done.

    Args:
        folder: What units write into ``/run/out`` is afterwards in its folder ``out``.
        files: Text by path, among them ``/etc/systemd/system/test.target``; only root may read them.
        seconds: How long it may take.

    Returns:
        What systemd logged.
    """
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    group = next((group for group in _GROUPS if (group / "cgroup.procs").exists()), None)
    if os.geteuid() != 0 or missing or group is None:
        lacks = "root" if os.geteuid() != 0 else ", ".join(missing) or "control groups of version 2"
        pytest.skip(f"systemd cannot be started in namespaces: this needs {lacks}")
    for path, text in files.items():
        place = folder / "files" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o600)
    own = group / f"sam-app-test-{os.getpid()}"
    own.mkdir()
    spaces = "unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child"
    enter = f"echo 0 >{own}/cgroup.procs && exec {spaces} {shlex.join([str(_BOOT), str(folder)])}"
    try:
        # `script` gives it a terminal, which systemd wants for a console.
        ran = subprocess.run(
            ["script", "--quiet", "--return", "--command", enter, "/dev/null"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    finally:
        (own / "cgroup.kill").write_text("1")
        while "populated 1" in (own / "cgroup.events").read_text():
            time.sleep(0.05)
        for below in sorted(own.rglob("*/"), reverse=True):
            below.rmdir()
        own.rmdir()
    return ran.stdout

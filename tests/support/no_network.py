"""Running a command where there is no network but a loopback interface."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
os.execvp(sys.argv[1], sys.argv[1:])
"""


def without_network() -> list[str]:
    """The words before a command that run it in a network namespace of its own; skips the test if there can be none."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not there: apt-get install util-linux")
    words = [unshare, "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    words += ["--", sys.executable, "-I", "-c", _LOOPBACK_UP]
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine makes no network namespace: {done.stderr.strip()}")
    return words

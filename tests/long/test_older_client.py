"""The client of nnInteractive's plugins that was current before the pinned one, through the same tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.timeout(1800)]

TESTS = Path(__file__).resolve().parents[1] / "integration" / "test_nninteractive.py"


def test_2_5_1(tmp_path):
    wanted = ["nninteractive-client==2.5.1", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", *wanted], check=True)

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    version = run("-c", "from importlib.metadata import version; print(version('nninteractive-client'))")
    assert version.strip() == "2.5.1"
    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS))
    assert re.search(r"\d+ passed", told) and "skipped" not in told

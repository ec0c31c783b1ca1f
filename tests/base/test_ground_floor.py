"""The ground floor imports nothing of the rooms above, and what ``scripts/keys`` needs is Python's own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
APP = REPOSITORY / "apps" / "sam_app"
MODULES = sorted((APP / "lib" / "base").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_it_imports_nothing_of_ours_but_itself(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported.update(name.name for name in node.names)
    assert not {name for name in imported if name.split(".")[0] == "lib" and not name.startswith("lib.base.")}


def test_keys_are_made_by_the_standard_library_alone(tmp_path):
    """``-S``: no installed package can be imported; the path is that which ``scripts/keys`` sets."""
    call = [sys.executable, "-S", str(REPOSITORY / "scripts" / "keys.py"), "--file", str(tmp_path / "keys.json")]
    environment = {"PYTHONPATH": str(APP)}
    done = subprocess.run([*call, "add", "viewer"], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sam_")


def test_files_locks_and_clocks_need_the_standard_library_alone():
    names = ("clock", "files", "locks", "scratch", "threads", "plain_text", "request_record")
    code = f"import sys; sys.path.insert(0, {str(APP)!r})\n" + "".join(f"import lib.base.{name}\n" for name in names)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

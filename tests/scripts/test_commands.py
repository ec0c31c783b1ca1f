"""The commands of ``scripts/`` as they are called: from anywhere, in a clone whose path has a space, by bare Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The commands and the app's modules, without ``.venv``."""
    folder = tmp_path_factory.mktemp("commands") / "a clone"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts", ignore=unwanted)
    shutil.copytree(REPOSITORY / "apps" / "sam_app" / "lib", folder / "apps" / "sam_app" / "lib", ignore=unwanted)
    return folder


def call(clone: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the Python that made the environment of these tests, which has none of its packages."""
    environment = {**os.environ, "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3"), "PYTHONPATH": ""}
    command = [str(clone / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, timeout=60, check=False)


@pytest.mark.parametrize(
    "name",
    ["audit", "bundle", "docs", "image", "keys", "licences", "lock", "quantize", "sbom", "start", "test", "weights"],
)
def test_help_installs_nothing(clone, name):
    done = call(clone, name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"scripts/{name}" in done.stdout and done.stderr == ""
    assert not (clone / ".venv").exists()


def test_keys_need_nothing_but_python(clone, tmp_path):
    done = call(clone, "keys", "--file", str(tmp_path / "keys.json"), "add", "viewer")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sam_") and not (clone / ".venv").exists()


def test_what_a_user_has_on_pythonpath_stays_there(clone, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('seen', file=sys.stderr)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHON": str(Path(sys.base_prefix) / "bin" / "python3")}
    command = [str(clone / "scripts" / "keys"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert "seen" in done.stderr


@pytest.fixture
def checks(clone, tmp_path) -> Path:
    """A clone whose programs only print how they are called."""
    shutil.copytree(clone / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for program in ("scripts/setup", ".venv/bin/python", ".venv/bin/lint-imports"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], "-m pytest -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder"),
        (["--coverage"], "-m pytest --cov -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder"),
        (["tests/sam", "-x"], "-m pytest tests/sam -x"),
        (["-m", "long"], "-m pytest -m long"),
        (
            ["--fast", "tests/sam"],
            "-m pytest -m not slow and not long and not server and not e2e -n logical --maxprocesses 4 --dist loadfile "
            "tests/sam",
        ),
    ],
    ids=["everything", "coverage", "some", "long", "fast"],
)
def test_what_is_checked(checks, arguments, called):
    done = call(checks, "test", *arguments)
    assert done.returncode == 0, done.stderr
    for step in ("-m ruff check", "-m ruff format --check --quiet", "-m mypy", called):
        assert f".venv/bin/python {step}\n" in done.stdout
    assert ".venv/bin/lint-imports" in done.stdout and done.stdout.endswith("all passed\n")


def test_the_documentation_is_built_with_what_it_needs(checks):
    done = call(checks, "docs", "a folder")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"scripts/setup --docs\n.venv/bin/python {checks}/scripts/docs.py a folder\n"


def test_in_a_browser_nothing_else_is_checked(checks):
    done = call(checks, "test", "--e2e", "-k", "keyboard")
    assert ".venv/bin/python -m pytest -m e2e -k keyboard\n" in done.stdout
    assert "ruff" not in done.stdout and "lint-imports" not in done.stdout

"""How scripts/image calls an engine, with programs that only note how; `tests/long/test_image.py` calls a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(folder: Path, *words: str, **engines: str) -> subprocess.CompletedProcess[str]:
    """Calls it with engines that run a line of shell each."""
    for name, line in engines.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{folder}/log"\n{line}\n')
        (folder / name).chmod(0o755)
    command = [sys.executable, str(ROOT / "scripts" / "image.py"), *words]
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1700000000"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def built(folder: Path) -> str:
    (line,) = [line for line in (folder / "log").read_text().splitlines() if " build " in line]
    return line


def test_the_first_engine_that_works_builds(tmp_path: Path) -> None:
    done = call(tmp_path, "build", "--target", "cuda", docker="exit 1", podman="true", buildah="true")
    assert done.returncode == 0, done.stderr
    line = built(tmp_path)
    assert line.startswith("podman build --target cuda --tag sam-app:cuda ") and line.endswith(str(ROOT))
    assert "--format docker --timestamp 1700000000" in line  # without the format there would be no HEALTHCHECK
    assert "SOURCE_DATE_EPOCH=1700000000" in line and "CREATED=2023-11-14T22:13:20Z" in line
    assert "BASE=" not in line and "TORCH_INDEX=" not in line


def test_what_is_asked_for_reaches_the_engine(tmp_path: Path) -> None:
    words = ["--engine", "docker", "--tag", "here/sam:1", "--base", "mine:1", "--torch-index", "", "--", "--no-cache"]
    assert call(tmp_path, "build", *words, docker="true").returncode == 0
    line = built(tmp_path)
    assert "--tag here/sam:1" in line and "BASE=mine:1" in line and f"--no-cache {ROOT}" in line
    assert "--build-arg TORCH_INDEX= " in line and "--timestamp" not in line


def test_the_image_with_ray_is_a_target(tmp_path: Path) -> None:
    assert call(tmp_path, "build", "--target", "ray", docker="true").returncode == 0
    assert built(tmp_path).startswith("docker build --target ray --tag sam-app:ray ")


@pytest.mark.parametrize(
    ("words", "needed"), [(["check"], "docker or podman"), (["build", "--engine", "docker"], "docker")]
)
def test_an_engine_that_cannot_is_named(tmp_path: Path, words: list[str], needed: str) -> None:
    broken = {"docker": "exit 1", "podman": "exit 1", "buildah": "true"}
    done = call(tmp_path, *words, **broken)
    assert done.returncode == 1
    assert done.stderr.startswith(f"scripts/image: {needed} is not here, or does not work; ")


def test_a_file_that_was_not_written_whole_is_not_there(tmp_path: Path) -> None:
    done = call(tmp_path, "save", str(tmp_path / "image.tar"), podman='[ "$1" != save ] || { echo half && exit 1; }')
    assert done.returncode == 1 and "could not be saved" in done.stderr
    assert not list(tmp_path.glob("*image*"))
    done = call(tmp_path, "save", str(tmp_path / "image.tar"), podman='[ "$1" != save ] || echo whole')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image.tar").read_text() == "whole\n"
    check = subprocess.run(["sha256sum", "-c", "image.tar.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert check.returncode == 0

"""The Dockerfile, as far as it can be seen without building an image; `tests/long/test_image.py` builds one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from image_build import LEFT_OUT_OF_IMAGE, PLACES

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENTRY = (ROOT / "scripts" / "image-entry").read_text()


@pytest.mark.parametrize("file", [*ROOT.glob("Dockerfile"), *ROOT.glob("deploy/**/Dockerfile")], ids=str)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_is_kept_is_one_volume_and_the_entry_point_sees_to_each_folder() -> None:
    """A volume for each folder would be hidden in one of its own if an operator mounts one for all of them."""
    assert re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE) == ['["/data"]'] * 3
    folders = re.search(r"for name in ([\w ]+); do\n    check_folder", ENTRY)[1].split()
    made = re.search(r"install -d -o sam -g sam -m 0700 (.*?) \\\n    &&", DOCKERFILE, re.DOTALL)[1]
    assert re.findall(r"/data/(\w+)", made) == folders
    assert set(PLACES.values()) <= set(folders)
    section = (ROOT / "docs" / "docker.md").read_text().partition("## What is where\n")[2]
    assert set(re.findall(r"^\| `/data/(\w+)` \|", section, re.MULTILINE)) == set(folders)


def test_the_last_stage_is_the_one_for_cpus() -> None:
    assert re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "cpu"


def test_ray_is_in_one_target_alone_beside_the_packages_for_cpus() -> None:
    bodies = dict(re.findall(r"^FROM (\S+ AS \S+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE))
    assert [name for name, body in bodies.items() if "requirements-ray.txt" in body] == ["packages-cpu AS packages-ray"]
    assert [name for name, body in bodies.items() if "--from=app-ray" in body] == ["image AS ray"]
    assert "scripts/setup --ray" in bodies["packages-cpu AS packages-ray"]
    assert "PYTHONPATH=/opt/sam-app/apps/sam_app" in bodies["image AS ray"]


def test_the_entry_point_runs_ray_where_it_is_and_else_says_where_it_is(tmp_path: Path) -> None:
    """With the folders of an image in one of its own."""
    root = tmp_path / "app"
    for folder in ("scripts", "bundled/openvino", ".venv/bin"):
        (root / folder).mkdir(parents=True)
    (root / "bundled" / "sam_tiny.pt").touch()
    (root / "bundled" / "openvino" / "sam_tiny-1").mkdir()
    (root / "scripts" / "lib.sh").write_text((ROOT / "scripts" / "lib.sh").read_text())
    entry = root / "scripts" / "image-entry"
    entry.write_text(ENTRY.replace("data=/data ", f"data={tmp_path}/data "))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", entry, "ray", "start", "--head"], capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 2 and "there is no ray in this image: it is in sam-app:ray" in done.stderr
    (root / ".venv" / "bin" / "ray").write_text('#!/bin/sh\necho "ray $*"\n')
    (root / ".venv" / "bin" / "ray").chmod(0o755)
    assert run().stdout == "ray start --head\n"
    assert (tmp_path / "data" / "model" / "sam_tiny.pt").resolve() == root / "bundled" / "sam_tiny.pt"


def test_what_is_left_out_is_in_the_docs() -> None:
    section = (ROOT / "docs" / "docker.md").read_text().partition("## What is left out\n")[2]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert rows == [(left_out.what, left_out.reason) for left_out in LEFT_OUT_OF_IMAGE]


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
def test_what_is_named_is_there(name: str) -> None:
    """Of each file and folder that is copied into an image, or kept out of it, something is in the repository."""
    if name == "Dockerfile":
        lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        patterns = [word for line in lines for word in line.split()]
    else:
        patterns = [
            line.lstrip("!") for line in (ROOT / name).read_text().splitlines() if line.startswith(("!", "scr"))
        ]
    assert len(patterns) > 5
    for pattern in patterns:
        assert pattern == "." or list(ROOT.glob(pattern)), pattern

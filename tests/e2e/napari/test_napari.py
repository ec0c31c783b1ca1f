"""napari with nnInteractive's plugin, as people use it, at a real server: what is then in its layers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.rest import dice
from support.server_process import REFUSE_OUTBOUND, REPOSITORY, Server, running_server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.server, pytest.mark.timeout(3600)]
"""An environment of 1 GB is made, and all is drawn without a graphics card."""

HERE = Path(__file__).parent
PICTURES = REPOSITORY / "e2e-artefacts" / "napari"
SHAPE, SPACING = (40, 96, 112), (2.0, 1.0, 1.0)
AT_LEAST = 0.9


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    """The bool mask of a ball, its radius in mm."""
    grid = np.ogrid[tuple(slice(0, size) for size in SHAPE)]
    return sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, SPACING, strict=True)) <= radius**2


BIG, SMALL = ball((20, 50, 40), 22), ball((18, 30, 88), 10)
IMAGE = (np.random.default_rng(5).normal(100, 5, SHAPE) + 110 * (BIG | SMALL)).astype(np.int16)


@dataclass(frozen=True)
class Story:
    """What was in napari's layers after each step, what the plugin said, and what napari printed."""

    seen: dict[str, np.ndarray]
    told: dict[str, str]
    printed: str
    server: Server


@pytest.fixture(scope="module")
def napari_python(tmp_path_factory) -> Iterator[Path]:
    """The Python of a new environment with napari, which is removed at the end."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("xvfb-run (Debian packages xvfb and xauth) is not installed: see CONTRIBUTING.md")
    folder = tmp_path_factory.mktemp("napari") / "venv"
    uv = [sys.executable, "-m", "uv"]
    try:
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run(
            [*uv, "pip", "sync", "--quiet", "--python", python, HERE / "requirements-napari.txt"], check=True
        )
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory, napari_python) -> Iterator[tuple[Server, str]]:
    """The server, and the key of its user."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "studies").mkdir()
    key, entry = make_key("napari", ["user"], None)
    KeyFile(folder / "keys.json").add(entry)
    with running_server(folder, "models", "sam_tiny", "api_keys", str(folder / "keys.json")) as server:
        yield server, key


@pytest.fixture(scope="module")
def story(tmp_path_factory, napari_python, served) -> Story:
    """All that ``hands.py`` does in napari, once for all tests; napari reaches this machine alone."""
    server, key = served
    folder = tmp_path_factory.mktemp("story")
    (folder / "hooks").mkdir()
    (folder / "hooks" / "sitecustomize.py").write_text(REFUSE_OUTBOUND)
    # As NIfTI has it: columns, rows, slices, of a head that points up; the plugin's reader turns them round again.
    nibabel.save(nibabel.Nifti1Image(IMAGE.T, np.diag([*SPACING[::-1], 1])), folder / "phantom.nii.gz")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(folder / "hooks"),
    }
    done = subprocess.run(
        [
            "xvfb-run", "--auto-servernum", "--server-args=-screen 0 1600x1000x24",
            napari_python, HERE / "hands.py", f"{server.url}/nninteractive", key, folder,
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800, check=False,
    )  # fmt: skip
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in folder.glob("*.png"):
        shutil.copy(picture, PICTURES / picture.name.replace(" ", "-"))
    assert done.returncode == 0, done.stdout[-4000:]
    with np.load(folder / "seen.npz") as seen:
        masks = {name: seen[name] if name == "image" else seen[name] > 0 for name in seen.files}
    return Story(masks, json.loads((folder / "told.json").read_text()), done.stdout, server)


def test_the_image_is_what_napari_shows(story):
    assert np.array_equal(story.seen["image"], IMAGE)


def test_a_wrong_key_and_a_model_that_is_not_there_are_told(story):
    assert story.told["wrong key"] == "Invalid API key."
    assert story.told["no such model"] == "Server error 404."


def test_the_right_key_connects_and_the_model_is_named(story):
    assert story.told["connected"] == f"connected ({story.server.url}/nninteractive)"
    assert re.fullmatch(r"Model license: MIT \(sam_tiny on SAM app .*\)", story.told["licence"])


@pytest.mark.parametrize("prompt", ["point", "scribble", "box", "lasso"])
def test_each_kind_of_prompt_marks_the_object(story, prompt):
    """Point and scribble on axial slices, the box on coronal ones, the lasso on sagittal ones."""
    assert dice(story.seen[prompt], BIG) > AT_LEAST


@pytest.mark.parametrize("step", ["point taken back", "reset", "next object"])
def test_nothing_is_left_after_undo_reset_and_next_object(story, step):
    assert not story.seen[step].any()


def test_undo_takes_a_correction_back(story):
    both, corrected = story.seen["both"], story.seen["negative point"]
    assert dice(both, BIG | SMALL) > AT_LEAST and dice(both & SMALL, SMALL) > AT_LEAST
    assert (corrected & SMALL).sum() < (both & SMALL).sum()
    assert np.array_equal(story.seen["negative point taken back"], both)


def test_a_negative_scribble_takes_away_what_it_is_on(story):
    mask = story.seen["negative scribble"]
    assert dice(mask, BIG) > AT_LEAST and not (mask & SMALL).any()


def test_the_next_object_leaves_the_one_before_as_it_was(story):
    (first,) = story.seen["objects"]
    assert np.array_equal(first, story.seen["negative scribble"])
    assert dice(story.seen["second object"], SMALL) > AT_LEAST


def test_a_mask_that_was_kept_is_gone_on_with_after_the_session_is_lost(story):
    """The plugin sets out to keep it by itself, but takes each layer for another one when it connects again."""
    before = story.seen["second object"]
    assert story.told["session lost"] == "session lost"
    assert np.array_equal(story.seen["session lost"], before) and not story.seen["connected again"].any()
    half = before.copy()
    half[:18] = False
    assert np.array_equal(story.seen["begun with a mask"], half) and dice(half, SMALL) < AT_LEAST
    assert dice(story.seen["mended"], SMALL) > AT_LEAST


def test_closing_napari_ends_the_session(story):
    deadline = time.monotonic() + 10
    lines: list[dict] = []
    while not (lines and lines[-1]["route"].endswith("/release")) and time.monotonic() < deadline:
        lines = [json.loads(line) for line in story.server.audit.read_text().splitlines()]
        time.sleep(0.1)
    assert lines[-1]["route"].endswith("/release") and lines[-1]["user"] == "key:napari"


def test_napari_asks_nobody_else_but_for_newer_versions(story):
    asked = set(re.findall(r"OUTBOUND REFUSED: \S+ (\S+)", story.printed))
    assert asked == {"pypi.org"}

"""``scripts/start --demo``: what a newcomer sees first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import serve
from demo import PROMPTS, stage_of
from lib.imaging.palette import PALETTE
from support.server_process import REPOSITORY

pytestmark = pytest.mark.server

STAGES = (
    "A demo on this machine alone",
    "Nothing is downloaded",
    "Writing three example images",
    "Starting the server; its log is ",
    "It answers, and loads its model ...",
    "Loaded sam_tiny in ",
    "The server is ready: http://127.0.0.1:",
    "POST /segment_input_image/",
    "Demo passed in ",
    "To go on: scripts/start",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """Its folder, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    script = (
        f"import demo, pathlib, serve, sys; demo.DEMO_FOLDER = pathlib.Path({str(folder)!r}); sys.exit(serve.main())"
    )
    paths = [str(REPOSITORY / name) for name in ("scripts", "apps/sam_app")]
    done = subprocess.run(
        [sys.executable, "-c", script, "--demo", "--models", "sam_tiny"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_it_says_what_it_does_at_each_stage(run):
    said = run[1]
    at = [said.find(stage) for stage in STAGES]
    assert -1 not in at and at == sorted(at), said
    assert max(map(len, said.replace(str(run[0]), "demo").splitlines())) <= 100


def test_its_pictures_show_what_was_marked_and_what_came_back(run):
    pictures = {name: np.asarray(Image.open(run[0] / f"{name}.png")) for name in ("image", "mask", "mask_colour")}
    assert np.array_equal(pictures["mask_colour"], PALETTE[pictures["mask"]]) and pictures["mask"].any()
    prompts = np.asarray(Image.open(run[0] / "prompts.png").convert("RGB")).astype(int)
    image = np.asarray(Image.open(run[0] / "image.png").convert("RGB")).astype(int)
    changed = np.any(prompts != image, axis=2)
    (rectangle,) = PROMPTS["rectangles"]
    x, y = rectangle["startX"], rectangle["startY"]
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min()) == (x, y)
    assert (columns.max(), rows.max()) == (x + rectangle["width"], y + rectangle["height"])
    for kind, channel in (("positive_points", 1), ("negative_points", 0)):
        for point in PROMPTS[kind]:
            colour = prompts[point["y"] + 3, point["x"] + 3]
            assert colour.argmax() == channel and colour.max() > 2 * np.sort(colour)[0]


def test_the_log_has_no_line_of_monai_label_s_that_says_nothing_true(run):
    log = (run[0] / "server.log").read_text()
    assert "USING::" not in log and "Allow Origins" not in log
    assert "Web pages that may call the server: http://localhost" in log and "Uvicorn running on" in log


def test_what_fails_is_seen(capsys):
    with pytest.raises(ModuleNotFoundError, match="no_such_app"):
        serve.run_server(print, "no_such_app:app")
    assert capsys.readouterr().out == ""
    assert serve.main(["--demo", "--conf", "api_keys", "x"]) == 2
    assert "leave --conf api_keys out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("(lib.sam.runtimes.openvino_ir:208) - Converting sam_tiny for OpenVINO: once ...", "Converting sam_tiny .*"),
        (
            "(lib.sam.runtimes.openvino_ir:219) - Converted sam_tiny in 34 s; relative {'a': 1}",
            "Converted sam_tiny in 34 s",
        ),
        ("(lib.server.app:115) - Results: /tmp/results", None),
        ("App Init...", None),
    ],
)
def test_what_of_the_log_is_a_stage(line, stage):
    found = stage_of(f"[2026-01-01 00:00:00,000] [1] [MainThread] [INFO] {line}\n")
    assert found is None if stage is None else re.fullmatch(stage, str(found))

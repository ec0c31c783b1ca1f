"""A server whose users' accepted labels teach it: by the command line, while it serves."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

import models
from learning.conftest import disc_picture
from support.server_process import SAM_APP, Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

SCRIPTS = SAM_APP.parents[1] / "scripts"


def command(name: str, app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the app's model folder, as an operator does beside a running server."""
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--model-folder", app / "model", *arguments],
        env={"PYTHONPATH": str(SAM_APP), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def accept(server: Server, image: str, mask: np.ndarray) -> None:
    """Save a mask as the image's final label, as a viewer does."""
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(content, "PNG")
    answer = requests.put(
        f"{server.url}/datastore/label?image={image}&tag=final",
        data={"params": json.dumps({"label_info": [{"name": "bright disc", "idx": 1}]})},
        files={"label": ("label.png", content.getvalue(), "image/png")},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def test_five_are_labelled_and_the_sixth_comes_by_itself(tmp_path: Path) -> None:
    app, studies = tmp_path / "sam_app", tmp_path / "studies"
    shutil.copytree(SAM_APP, app, ignore=shutil.ignore_patterns("__pycache__", "results", "logs", "learned", "*.pt*"))
    studies.mkdir()
    for seed in range(8):
        Image.fromarray(disc_picture(seed)[0]).save(studies / f"image{seed}.png")
    with running_server(tmp_path, app=app, studies=studies) as server:
        for seed in range(7):
            accept(server, f"image{seed}", disc_picture(seed)[1])
        assert "auto_bright_disc" not in server.get("/info/").json()["models"]
        done = command("train_labels", app, "--studies", str(studies), "--only", "auto_bright_disc", "--minutes", "0.6")
        assert done.returncode == 0, done.stderr
        assert "7 pictures of 7 studies have accepted labels" in done.stdout
        assert "auto_bright_disc@1 is served: its Dice on the held-out studies is 0." in done.stdout, done.stdout

        task = server.get("/info/").json()["models"]["auto_bright_disc"]
        assert (task["type"], task["labels"], task["prompts"]) == ("segmentation", {"bright disc": 1}, [])
        answer = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
        assert answer.status_code == 200, answer.text
        mask, truth = np.asarray(Image.open(io.BytesIO(answer.content))) > 0, disc_picture(7)[1]
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.5
        facts = server.post("/infer/auto_bright_disc?image=image7&output=json", data={"params": "{}"}).json()
        assert facts["version"] == "auto_bright_disc@1" and len(facts["found"]) == 1

        listed = command("models", app, "list")
        assert "served auto_bright_disc@1" in listed.stdout
        back = command("models", app, "rollback", "auto_bright_disc")
        assert back.stdout == "auto_bright_disc as it was before any learning is served now\n"
        assert "auto_bright_disc" not in server.get("/info/").json()["models"]
        gone = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
        assert gone.status_code == 404 and gone.json()["detail"].startswith("there is no model 'auto_bright_disc'")
        forward = command("models", app, "promote", "auto_bright_disc@1")
        assert forward.stdout == "auto_bright_disc@1 is served now\n"
        again = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
        assert again.content == answer.content
        assert "Traceback" not in server.log.read_text(errors="replace")


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    shutil.copy(SAM_APP / "model" / "sam_tiny.safetensors", tmp_path / "model")
    (tmp_path / "studies").mkdir()
    Image.fromarray(disc_picture(0)[0]).save(tmp_path / "studies" / "one.png")
    done = command("train_labels", tmp_path, "--studies", str(tmp_path / "studies"))
    assert done.returncode == 1
    assert done.stderr == "Cannot learn: learning needs labels of at least 2 studies, there are 0\n"
    assert not (tmp_path / "model" / "learned").exists()


def test_models_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--model-folder", str(tmp_path)]
    assert models.main([*folder, "list"]) == 0
    assert capsys.readouterr().out.startswith("Nothing was learned here yet")
    assert models.main([*folder, "promote", "sam_tiny@3"]) == 1
    expected = "Cannot do that: there is no version sam_tiny@3; nothing was learned for it yet\n"
    assert capsys.readouterr().err == expected
    assert models.main([*folder, "promote", "3"]) == 1
    assert "is not NAME@NUMBER" in capsys.readouterr().err

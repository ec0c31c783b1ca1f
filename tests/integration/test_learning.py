"""A server whose users' accepted labels teach it, while it serves."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest
import requests
from monailabel.client.client import MONAILabelClient
from PIL import Image

import models
from learning.conftest import disc_picture
from support.server_process import SAM_APP, Server, running_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a training waits for whatever else the machine does
    # monailabel.client leaves its connections for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

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


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server whose users have accepted a label on seven of eight images, and its app's folder."""
    folder = tmp_path_factory.mktemp("taught")
    app, studies = folder / "sam_app", folder / "studies"
    shutil.copytree(SAM_APP, app, ignore=shutil.ignore_patterns("__pycache__", "results", "logs", "learned", "*.pt*"))
    studies.mkdir()
    for seed in range(8):
        Image.fromarray(disc_picture(seed)[0]).save(studies / f"image{seed}.png")
    with running_server(folder, app=app, studies=studies) as server:
        for seed in range(7):
            accept(server, f"image{seed}", disc_picture(seed)[1])
        yield server, app
        assert "Traceback" not in server.log.read_text(errors="replace")


def start(server: Server, minutes: float = 0.4) -> requests.Response:
    """Start a training of one label."""
    return server.post("/train/sam_tiny", json={"teach": "bright disc", "minutes": minutes})


def ended(server: Server, within: float = 500) -> dict[str, Any]:
    """Return the state of the training that was started last, when it has ended."""
    until = time.monotonic() + within
    while (state := server.get("/train/").json())["status"] == "RUNNING":
        assert time.monotonic() < until, state
        time.sleep(0.3)
    return state


def training_processes(server: Server) -> list[psutil.Process]:
    """Return the server's children that learn."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "lib.learning.process" in " ".join(child.cmdline())]


def test_five_are_labelled_and_the_sixth_comes_by_itself(taught: tuple[Server, Path]) -> None:
    server, app = taught
    info = server.get("/info/").json()
    assert "auto_bright_disc" not in info["models"]
    assert info["trainers"]["sam_tiny"]["config"]["teach"] == ["everything", "prompts", "labels"]
    begun = start(server, minutes=0.8)
    assert begun.status_code == 200 and begun.json()["status"] == "RUNNING", begun.text
    assert server.get("/train/?check_if_running=true").json()["status"] == "RUNNING"
    assert start(server).status_code == 429
    state = ended(server)
    assert state["status"] == "DONE" and state["progress"] == 1.0, state
    [result] = state["results"]
    assert result["title"] == "auto_bright_disc@1" and result["served"], result
    assert server.get("/train/?check_if_running=true").status_code == 404

    task = server.get("/info/").json()["models"]["auto_bright_disc"]
    assert (task["type"], task["labels"], task["prompts"]) == ("segmentation", {"bright disc": 1}, [])
    answer = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
    assert answer.status_code == 200, answer.text
    mask, truth = np.asarray(Image.open(io.BytesIO(answer.content))) > 0, disc_picture(7)[1]
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.5
    facts = server.post("/infer/auto_bright_disc?image=image7&output=json", data={"params": "{}"}).json()
    assert facts["version"] == "auto_bright_disc@1" and len(facts["found"]) == 1

    batch = server.post("/batch/infer/auto_bright_disc?images=unlabeled&run_sync=true", json={"label_tag": "auto"})
    assert batch.status_code == 200 and list(batch.json()) == ["image7"], batch.text
    proposed = server.get("/datastore/label?label=image7&tag=auto")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(proposed.content))) > 0, mask)
    score = server.post("/activelearning/uncertainty", json={}).json()["score"]
    assert score == facts["found"][0]["score"]

    picture = io.BytesIO()
    Image.fromarray(disc_picture(7)[0]).save(picture, "PNG")
    posted = server.segment(picture.getvalue(), json.dumps({"model": "auto_bright_disc"}))
    assert posted.status_code == 200, posted.text
    assert json.loads(posted.headers["SAM-Result"])["version"] == "auto_bright_disc@1"
    view = server.get(f"/get_segmented_image/{posted.json()['timestamp']}?view=mask")
    assert ((np.asarray(Image.open(io.BytesIO(view.content)).convert("L")) > 0) == mask).mean() > 0.999
    stored = server.get(f"/get_dicom_image/{posted.json()['timestamp']}?type=seg")
    [segment] = pydicom.dcmread(io.BytesIO(stored.content)).SegmentSequence
    [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
    assert (segment.SegmentLabel, algorithm.AlgorithmVersion) == ("bright disc", "auto_bright_disc@1")
    prompted = {"model": "auto_bright_disc", "positive_points": [{"x": 5, "y": 5}]}
    refused = server.segment(picture.getvalue(), json.dumps(prompted))
    assert refused.status_code == 422 and "finds its label by itself" in refused.json()["detail"]

    lines = [json.loads(line) for line in (app.parent / "audit.jsonl").read_text().splitlines()]
    [line] = [line for line in lines if line["route"] == "training"]
    assert (line["kind"], line["model"], line["outcome"]) == ("job", "auto_bright_disc@1", "ok")
    assert line["request_id"] in {other["request_id"] for other in lines if other["route"] == "/train/{model}"}

    listed = command("models", app, "list")
    assert "served auto_bright_disc@1" in listed.stdout
    back = command("models", app, "rollback", "auto_bright_disc")
    assert back.stdout == "auto_bright_disc as it was before any learning is served now\n"
    assert "auto_bright_disc" not in server.get("/info/").json()["models"]
    gone = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
    assert gone.status_code == 404 and gone.json()["detail"].startswith("there is no model 'auto_bright_disc'")
    [versions] = server.get("/versions/").json()
    assert (versions["name"], versions["served"]) == ("auto_bright_disc", None)
    assert versions["versions"][0]["learned"] == {"pictures": 6, "studies": 6}
    none = server.post("/versions/auto_bright_disc/promote?version=7")
    assert none.status_code == 404 and "there is no version auto_bright_disc@7; there are 1" in none.text
    assert server.post("/versions/auto_bright_disc/promote?version=1").json()["served"] == 1
    again = server.post("/infer/auto_bright_disc?image=image7&output=image", data={"params": "{}"})
    assert again.content == answer.content


def test_a_training_that_is_killed_or_stopped_leaves_the_server_as_it_was(taught: tuple[Server, Path]) -> None:
    server, _ = taught
    before = server.get("/info/").json()["models"].keys()
    assert start(server, 5).status_code == 200
    until = time.monotonic() + 60
    while not (processes := training_processes(server)):
        assert time.monotonic() < until
    assert processes[0].nice() >= 0
    processes[0].kill()
    state = ended(server)
    assert state["status"] == "ERROR"
    assert state["details"][-1] == "the training's process was ended by SIGKILL; nothing else is affected"
    slicer = MONAILabelClient(server.url)
    assert slicer.train_start("sam_tiny", {"teach": "labels", "minutes": 5})["status"] == "RUNNING"
    assert slicer.train_status(check_if_running=True) and "stage" in slicer.train_status()
    assert slicer.train_stop()["request"]["model"] == "sam_tiny"
    assert ended(server)["status"] == "STOPPED" and not slicer.train_status(check_if_running=True)
    assert not training_processes(server)
    assert server.get("/info/").json()["models"].keys() == before
    assert server.get("/health_check/").json()["status"] == "ok"


@pytest.mark.long
def test_the_command_teaches_beside_the_server(taught: tuple[Server, Path]) -> None:
    _, app = taught
    studies = app.parent / "studies"
    done = command("train_labels", app, "--studies", str(studies), "--only", "auto_bright_disc", "--minutes", "0.03")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 images have accepted labels\nauto_bright_disc@")
    wrong = command("train_labels", app, "--studies", str(studies), "--only", "auto_spleen")
    assert (wrong.returncode, wrong.stdout) == (1, "7 images have accepted labels\n")
    expected = "Cannot learn: there is nothing to learn auto_spleen from, only sam_tiny, auto_bright_disc\n"
    assert wrong.stderr == expected


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

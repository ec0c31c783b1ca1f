"""A batch whose server is killed in the middle goes on where it was, when it is started again."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

IMAGES = [f"ball{n:02}" for n in range(24)]


def labels_of(studies: Path) -> dict[str, tuple[int, bytes]]:
    """When each label of the batch was made, and its content, by its image."""
    files = (studies / "labels" / "pre").glob("*.nii.gz")
    return {file.name.removesuffix(".nii.gz"): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def start(server: Server) -> None:
    params = {"prompts": "labels", "label_tag": "pre", "images": "unlabeled"}
    answer = server.post("/batch/infer/sam_tiny", json=params)
    assert answer.status_code == 200, answer.text


def wait_for_labels(server: Server, studies: Path, count: int) -> None:
    deadline = time.monotonic() + 40
    while len(labels_of(studies)) < count:
        assert time.monotonic() < deadline, server.log.read_text(errors="replace")[-3000:]
        time.sleep(0.01)


@pytest.mark.slow
def test_a_batch_that_was_killed_does_only_what_is_missing(tmp_path):
    studies = tmp_path / "studies"
    (studies / "labels" / "original").mkdir(parents=True)
    values, mask = ball_volume()
    for number, name in enumerate(IMAGES):
        noise = np.random.default_rng(number).normal(0, 5, values.shape)
        nibabel.Nifti1Image((values + noise).astype(np.int16), BALL_AFFINE).to_filename(studies / f"{name}.nii.gz")
        prompting = studies / "labels" / "original" / f"{name}.nii.gz"
        nibabel.Nifti1Image(mask.astype(np.uint8), BALL_AFFINE).to_filename(prompting)

    with running_server(tmp_path / "first", studies=studies) as server:
        start(server)
        wait_for_labels(server, studies, 8)
        server.process.kill()
        server.process.wait(10)
    kept = labels_of(studies)
    assert 8 <= len(kept) < len(IMAGES), "it was killed in the middle"

    with running_server(tmp_path / "second", studies=studies) as server:
        start(server)
        deadline = time.monotonic() + 40
        while "end_ts" not in (status := server.get("/batch/infer").json()):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        listed = server.get("/datastore/?output=all").json()["objects"]
    assert status["status"] == "DONE" and status["details"][0].endswith("images, 0 of them failed")
    made = labels_of(studies)
    assert sorted(made) == sorted(listed) == IMAGES
    assert set(status["results"]) == set(IMAGES) - set(kept), "what was there is not made again"
    assert {name: made[name] for name in kept} == kept
    assert all(set(one["labels"]) == {"original", "pre"} for one in listed.values())
    assert sorted(path.name for path in (studies / "labels" / "pre").iterdir()) == [f"{one}.nii.gz" for one in IMAGES]
    for name in IMAGES:
        found = np.asarray(nibabel.load(studies / "labels" / "pre" / f"{name}.nii.gz").dataobj)
        assert found.shape == mask.shape and found.any()

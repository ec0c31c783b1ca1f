"""Batch inference, labels saved with an inference, and the strategy that goes by their scores: on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import Server, running_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of monailabel.client, as in test_monailabel_client
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IMAGES = ("clear", "faint", "noise")


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of these tests alone; its temporary files are in ``folder/tmp``."""
    studies, scratch = folder / "studies", folder / "tmp"
    studies.mkdir()
    scratch.mkdir()
    values, mask = ball_volume()
    noise = np.random.default_rng(1).normal(0, 60, values.shape)
    pictures = {"clear": values, "faint": np.where(mask, 130, 100) + noise, "noise": 100 + noise}
    for name, picture in pictures.items():
        nibabel.Nifti1Image(picture.astype(np.int16), BALL_AFFINE).to_filename(studies / f"{name}.nii.gz")
    with running_server(folder / "server", studies=studies, variables={"TMPDIR": str(scratch)}) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("batch")) as running:
        yield running


@pytest.fixture
def untouched_server(tmp_path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


def stored(server: Server) -> dict:
    return server.get("/datastore/?output=all").json()["objects"]


def label_of(server: Server, image: str, tag: str) -> np.ndarray:
    return np.asarray(nibabel.load(Path(server.studies) / "labels" / tag / f"{image}.nii.gz").dataobj)


def left_behind(server: Server) -> list[str]:
    """What looks like a result's file."""
    return [path.name for path in (Path(server.studies).parent / "tmp").rglob("tmp*")]


def infer(server: Server, image: str, **params: object) -> requests.Response:
    return server.post(f"/infer/sam_tiny?image={image}&output=json", data={"params": json.dumps(params)})


def batch(server: Server, query: str = "", **params: object) -> requests.Response:
    return server.post(f"/batch/infer/sam_tiny?{query}", json=params)


def finished(server: Server) -> dict:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = server.get("/batch/infer").json()
        if "end_ts" in status:
            return status
        time.sleep(0.1)
    pytest.fail(f"the batch did not end: {status}")


def test_the_least_certain_image_is_next(untouched_server, tmp_path):
    server = untouched_server
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    assert "uncertainty" in client.info()["strategies"]
    assert client.next_sample("uncertainty", {})["id"] == "clear"  # none has a score: as ``first``

    answers = {image: infer(server, image, foreground=[BALL_CENTRE], save_label=True).json() for image in IMAGES[:2]}
    assert client.next_sample("uncertainty", {})["id"] == "noise"
    answers["noise"] = infer(server, "noise", foreground=[BALL_CENTRE], save_label=True).json()
    scores = {image: answer["scores"][0] for image, answer in answers.items()}
    assert len(set(scores.values())) == 3
    for image in sorted(IMAGES, key=lambda one: scores[one]):
        sample = client.next_sample("uncertainty", {})
        assert sample["id"] == image and sample["score"] == scores[image] and "path" not in sample
        label = Path(server.studies) / "labels" / "original" / f"{image}.nii.gz"
        client.save_label(image, str(label), tag="final")
    assert client.next_sample("uncertainty", {}) == {}


def test_a_label_saved_with_an_inference(server):
    for tag in ("original", "second", "final"):
        answer = infer(server, "clear", foreground=[BALL_CENTRE], save_label=True, label_tag=tag, label="liver")
        assert answer.status_code == 200, answer.text
        info = stored(server)["clear"]["labels"][tag]["info"]
        assert info["model"] == "sam_tiny" and info["params"]["scores"] == answer.json()["scores"]
        assert info["label_info"] == [{"name": "liver", "idx": 1}]
        assert label_of(server, "clear", tag)[tuple(BALL_CENTRE)] == 1
    infer(server, "faint", foreground=[BALL_CENTRE], save_label="false")
    assert stored(server)["faint"]["labels"] == {}

    (Path(server.studies) / "labels" / "blocked").write_bytes(b"a file where the tag's folder would be")
    assert infer(server, "faint", foreground=[BALL_CENTRE], save_label=True, label_tag="blocked").status_code == 500
    deadline = time.monotonic() + 5
    while left_behind(server) and time.monotonic() < deadline:  # one goes just after the answer
        time.sleep(0.05)
    assert left_behind(server) == []


@pytest.mark.slow
def test_a_batch_without_prompts(server):
    answer = batch(server, images=["clear"], label_tag="pre", output_dir="/etc", logging="CRITICAL")
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"] == {"model": "sam_tiny", "label_tag": "pre", "prompts": "automatic"}
    status = finished(server)
    assert status["status"] == "DONE" and set(status["results"]) == {"clear"}
    assert str(server.studies) not in json.dumps(status)
    for image, result in status["results"].items():
        labels = label_of(server, image, "pre")
        assert labels.shape == (64, 48, 16) and not np.delete(labels, 8, axis=2).any()
        assert labels.max() <= len(result["params"]["scores"]) and result["tag"] == "pre"
    assert label_of(server, "clear", "pre").any()
    assert left_behind(server) == []
    assert server.get("/batch/infer?check_if_running=true").status_code == 404


def test_a_batch_with_the_labels_that_there_are(server, tmp_path):
    _, mask = ball_volume()
    coarse = np.zeros(mask.shape, np.uint8)
    coarse[26:34, 20:28, 7] = 4
    coarse[2:6, 2:6, 7] = 9
    nibabel.Nifti1Image(coarse, BALL_AFFINE).to_filename(tmp_path / "coarse.nii.gz")
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    client.save_label("clear", str(tmp_path / "coarse.nii.gz"), tag="final")

    results = batch(server, "run_sync=true", prompts="labels", label_tag="refined").json()
    assert results["faint"] == {"error": "the image has no label that can be used as prompts"}
    assert results["clear"]["params"]["slice"] == 7 and len(results["clear"]["params"]["scores"]) == 2
    refined = label_of(server, "clear", "refined")
    assert set(np.unique(refined)) <= {0, 4, 9} and not np.delete(refined, 7, axis=2).any()
    found = refined[..., 7] == 4
    truth = mask[..., 7]
    assert 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)) > 0.68
    assert np.array_equal(label_of(server, "clear", "final"), coarse)


def test_a_client_cannot_name_the_label_that_prompts(server):
    file = str(Path(server.studies) / "clear.nii.gz")
    answer = infer(server, "faint", prompts="labels", prompt_label=file)
    assert answer.status_code == 422 and "has no label" in answer.json()["detail"]
    answer = infer(server, file, prompts="labels")
    assert answer.status_code == 404


def test_a_batch_through_volumes(server):
    _, mask = ball_volume()
    infer(server, "clear", foreground=[BALL_CENTRE], save_label=True)
    (Path(server.studies) / "labels" / "final" / "clear.nii.gz").unlink(missing_ok=True)
    query = "/batch/infer/sam_tiny_3d?run_sync=true"
    deadline = time.monotonic() + 10
    while "final" in stored(server)["clear"]["labels"] and time.monotonic() < deadline:
        time.sleep(0.1)
    body = {"prompts": "labels", "images": ["clear"], "label_tag": "volume"}
    result = server.post(query, json=body).json()["clear"]
    assert result["tag"] == "volume" and len(result["params"]["found"]) > 3
    found = label_of(server, "clear", "volume") == 1
    assert 2 * np.count_nonzero(found & mask) / (np.count_nonzero(found) + np.count_nonzero(mask)) > 0.6
    body["prompts"] = "automatic"
    assert "must be labels" in server.post(query, json=body).json()["clear"]["error"]


def test_which_images(server):
    """By labels, as that is fast: an image without one fails by itself."""

    def done(query: str = "", **params: object) -> set[str]:
        return set(batch(server, f"run_sync=true&{query}", prompts="labels", label_tag="chosen", **params).json())

    label = Path(server.studies) / "noise.nii.gz"
    with label.open("rb") as file:
        put = f"{server.url}/datastore/label?image=noise&tag=final"
        requests.put(put, files={"label": (label.name, file)}, timeout=30).raise_for_status()
    every = set(stored(server))
    labelled = {image for image, one in stored(server).items() if "final" in one["labels"]}
    assert "noise" in labelled < every
    assert done(images=["faint"]) == {"faint"}
    assert done() == every
    assert done(max_batch_size=2) == set(sorted(every)[:2])
    assert done("images=labeled") == labelled
    has_result = {image for image, one in stored(server).items() if "chosen" in one["labels"]}
    assert has_result - labelled, "a batch does not make again what it has made"
    assert done("images=unlabeled") == every - labelled - has_result


@pytest.mark.parametrize(
    ("params", "status", "said"),
    [
        ({"images": ["/etc/passwd"]}, 404, "no image"),
        ({"images": ["../clear"]}, 404, "no image"),
        ({"images": 5}, 422, "ids"),
        ({"images": "every"}, 422, "ids"),
        ({"label_tag": "../../x"}, 422, "label_tag"),
        ({"label_tag": "final"}, 422, "final"),
        ({"prompts": "random"}, 422, "labels, automatic"),
        ({"max_batch_size": -1}, 422, "max_batch_size"),
    ],
)
def test_refusals(server, params, status, said):
    answer = batch(server, "run_sync=true", **params)
    assert answer.status_code == status and said in answer.json()["detail"]


@pytest.mark.slow
def test_one_batch_at_a_time_and_it_can_be_stopped(server):
    assert batch(server).json()["status"] in ("SUBMITTED", "RUNNING")
    second = batch(server)
    assert second.status_code == 429 and "running already" in second.json()["detail"]
    assert server.get("/batch/infer?check_if_running=true").json()["status"] in ("SUBMITTED", "RUNNING")
    assert requests.delete(f"{server.url}/batch/infer", timeout=30).status_code == 200
    status = finished(server)
    assert status["status"] == "STOPPED" and len(status["results"]) < len(IMAGES)
    assert requests.delete(f"{server.url}/batch/infer", timeout=30).json() is None
    assert batch(server, "run_sync=true", images=["clear"], prompts="labels").status_code == 200
    assert [one["status"] for one in server.get("/batch/infer?all=true").json()][-2:] == ["STOPPED", "DONE"]

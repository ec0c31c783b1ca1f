"""What version 0.1.0 stored is read by this one: results, the queue, an embedding, API keys, the audit log."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from lib.base.clock import Clock, use_clock
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.models.registry import get_spec
from lib.sam.predictor import Predictor
from support.rest import picture
from support.server_process import REPOSITORY, Server, running_server

STORED = REPOSITORY / "tests" / "stored_by_0_1" / "stored.tar.xz"
KEY = {"Authorization": "Bearer sam_QY6sQgl67Ww7PaeKZ1ylEjAXAolP0VFs_78J6M6WrRM"}
FINISHED, REFINED = "1795705390.480941", "1795705395.298285"
FAILED, QUEUED = "1795705397.593464", "1795705398.157613"
DISC_POINT = (26, 18)


def extracted(folder: Path) -> Path:
    with tarfile.open(STORED) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    stored = extracted(tmp_path_factory.mktemp("stored"))
    files = [word for name in ("results", "embeddings") for word in (name, str(stored / name))]
    conf = (*files, "api_keys", str(stored / "api_keys.json"), "audit_log", str(stored / "audit.jsonl"))
    (stored / "studies").mkdir()
    with running_server(
        stored / "server", *conf, "results_max_days", "0", "models", "sam_tiny", studies=stored / "studies"
    ) as running:
        yield running


def stored_file(result: str, name: str) -> bytes:
    with tarfile.open(STORED) as archive:
        member = archive.extractfile(f"results/{result}/{name}")
        assert member is not None
        return member.read()


@pytest.mark.server
def test_the_key_logs_in_and_nobody_else(server):
    assert server.get("/info/").status_code == 401
    assert server.get("/info/", headers=KEY).status_code == 200


@pytest.mark.server
@pytest.mark.parametrize(
    ("result", "query", "name"),
    [
        (FINISHED, "view=mask", "mask.png"),
        (FINISHED, "view=mask&candidate=1", "candidate-1-mask.png"),
        (FINISHED, "view=contour", "contour.png"),
        (FINISHED, "view=overlay&candidate=2", "candidate-2-overlay.png"),
        (REFINED, "view=mask", "mask.png"),
    ],
)
def test_views_are_returned_as_they_were_stored(server, result, query, name):
    answer = server.get(f"/get_segmented_image/{result}?{query}", headers=KEY)
    assert answer.status_code == 200, answer.text
    assert answer.content == stored_file(result, name)
    facts = json.loads(answer.headers["SAM-Result"])
    assert facts == json.loads(stored_file(result, "manifest.json"))["result"]


@pytest.mark.server
def test_views_and_dicom_objects_that_nobody_asked_for_yet_are_made(server):
    assert picture(server.get(f"/get_segmented_image/{REFINED}?view=image", headers=KEY)).shape == (40, 48, 3)
    stored = server.get(f"/get_dicom_image/{FINISHED}?type=seg", headers=KEY)
    assert stored.content == stored_file(FINISHED, "segmentation.dcm")
    made = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{REFINED}?type=seg", headers=KEY).content))
    mask = np.asarray(Image.open(io.BytesIO(stored_file(REFINED, "mask.png"))))
    assert np.array_equal(made.pixel_array.reshape(mask.shape), mask)
    assert made.SegmentSequence[0].SegmentLabel == "disc"


@pytest.mark.server
def test_what_failed_says_why_and_what_was_queued_is_finished(server):
    failed = server.get(f"/get_segmented_image/{FAILED}", headers=KEY)
    assert failed.status_code == 422 and failed.json() == {
        "detail": json.loads(stored_file(FAILED, "manifest.json"))["failure"]["detail"]
    }
    deadline = time.monotonic() + 60
    while (answer := server.get(f"/get_segmented_image/{QUEUED}?view=mask", headers=KEY)).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert picture(answer)[DISC_POINT[::-1]] == 1


@pytest.mark.server
def test_a_refinement_goes_on_from_a_stored_result(server):
    asked = {"refine": float(REFINED), "positive_points": [{"x": 28, "y": 20}]}
    answer = server.post("/segment_input_image/", data={"sam_input": json.dumps(asked)}, headers=KEY)
    assert answer.status_code == 200, answer.text
    refined = answer.json()["timestamp"]
    assert picture(server.get(f"/get_segmented_image/{refined}?view=mask", headers=KEY))[DISC_POINT[::-1]] == 1
    manifest = server.results.parents[1] / "results" / f"{refined:.6f}" / "manifest.json"
    effective = json.loads(manifest.read_text())["effective"]
    assert (effective["label"], len(effective["positive_points"]), len(effective["negative_points"])) == ("disc", 2, 1)
    failed = {"refine": float(FAILED)}
    answer = server.post("/segment_input_image/", data={"sam_input": json.dumps(failed)}, headers=KEY)
    assert answer.status_code == 422 and "failed, so there is nothing to refine" in answer.json()["detail"]


@pytest.mark.server
def test_the_audit_log_goes_on_in_the_same_file(server):
    server.get(f"/get_segmented_image/{FINISHED}", headers=KEY)
    log = server.results.parents[1] / "audit.jsonl"
    command = [str(REPOSITORY / "scripts" / "audit"), "--file", str(log), "--user", "key:viewer", "--json"]
    deadline = time.monotonic() + 10
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        if len(entries) > 19 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert sum(entry["time"] < "2026-11-26T15:03:19" for entry in entries) == 19
    assert len(entries) > 19
    assert {entry["model"] for entry in entries} == {None, "sam_tiny"}


ITS_CHECKPOINT = "7f7af548ab067841726b19f07b0fe99c4b1cade7a69585fcba90f2e72597d8fc"
"""SHA-256 of the bundled checkpoint then."""


def test_the_embedding_is_taken_from_disk(tmp_path):
    files = EmbeddingFiles(extracted(tmp_path) / "embeddings", 1 << 30)
    spec = get_spec("sam_tiny")
    module = spec.build()
    predictor = Predictor(spec, module, checkpoint_sha256=ITS_CHECKPOINT, cache=EmbeddingCache(0, files))
    grey = np.asarray(Image.open(io.BytesIO(stored_file(FINISHED, "input"))))
    with use_clock(Clock()) as clock:
        embedding = predictor.encode(np.repeat(grey[..., None], 3, axis=2))
    assert "embedding" in clock.stages and "encode" not in clock.stages
    assert embedding.image_size == (40, 48) and float(embedding.features.sum()) == 36740

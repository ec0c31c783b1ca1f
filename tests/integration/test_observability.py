"""Audit log, metrics and logs of a real server that works on a patient called Jane Doe."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from pydicom.data import get_testdata_file

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.observe.audit import unknown_users_file
from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import SAM_APP, Server, command, free_port, running_server

pytestmark = pytest.mark.server

IMAGE = "doe_jane"
BOX = {"rectangles": [{"startX": 30, "startY": 40, "width": 60, "height": 50}], "positive_points": [{"x": 60, "y": 60}]}


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """The app in a folder of its own, so that its ``logs/app.log`` is of one server alone."""
    folder = tmp_path_factory.mktemp("app") / "sam_app"
    shutil.copytree(SAM_APP, folder, ignore=shutil.ignore_patterns("logs", "results", "bin", "*.pth", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def server(app, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("observed")
    studies = folder / "studies"
    studies.mkdir()
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(studies / f"{IMAGE}.nii.gz")
    with running_server(folder, app=app, studies=studies, flags=["--access_log"]) as running:
        while running.get("/health_check/").status_code != 200:
            time.sleep(0.2)
        yield running


def audited(server: Server, request_id: str | None = None) -> list[dict]:
    """The audit log's entries, or those of one request: they are written when its answer was sent."""
    deadline = time.monotonic() + 10
    while True:
        entries = [
            json.loads(line)
            for file in (server.audit, unknown_users_file(server.audit))
            if file.exists()
            for line in file.read_text().splitlines()
        ]
        found = [entry for entry in entries if request_id in (None, entry["request_id"])]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def entry_of(server: Server, answer: requests.Response) -> dict:
    (entry,) = [one for one in audited(server, answer.headers["x-request-id"]) if one["kind"] != "job"]
    return entry


def jane_doe() -> bytes:
    """A CT slice of Jane Doe's, with a birth date that pydicom warns of."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    dataset.PatientName, dataset.PatientID = "DOE^JANE", "DOE-1"
    dataset.PatientBirthDate, dataset.StudyDescription = "19010101", "Abdomen of DOE"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue().replace(b"19010101", b"1901DOE1")


def infer(server: Server, image: str = IMAGE, **params) -> requests.Response:
    fields = {"params": (None, json.dumps(params))}
    return server.post(f"/infer/sam_tiny?image={image}&output=image", files=fields)


def test_a_rest_segmentation_can_be_traced_from_upload_to_download(server):
    content = jane_doe()
    answer = server.segment(content, json.dumps({**BOX, "label": "DOE's liver"}), name="DOE^JANE.dcm")
    assert answer.status_code == 200, answer.text
    entry = entry_of(server, answer)
    assert (entry["route"], entry["status"], entry["outcome"]) == ("/segment_input_image/", 200, "ok")
    assert entry["image_sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["client"] == "127.0.0.1" and entry["model"] == "sam_tiny"
    assert entry["prompts"] == {"rectangles": 1, "positive_points": 1, "negative_points": 0}
    checkpoint = (SAM_APP / "model" / "sam_tiny.safetensors").read_bytes()
    assert entry["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert float(entry["timestamp"]) == answer.json()["timestamp"]

    for path in ("/get_segmented_image/", "/get_dicom_image/"):
        download = entry_of(server, server.get(f"{path}{answer.json()['timestamp']}"))
        assert download["route"] == path + "{timestamp}" and download["status"] == 200
        assert download["timestamp"] == entry["timestamp"] and download["image_sha256"] == entry["image_sha256"]


def test_a_viewers_inference_says_on_which_image_and_how(server):
    answer = infer(server, foreground=[[20, 20, 8], [21, 20, 8]], background=[[2, 2, 8]])
    assert answer.status_code == 200, answer.text
    entry = entry_of(server, answer)
    content = (server.studies / f"{IMAGE}.nii.gz").read_bytes()
    assert entry["route"] == "/infer/{model}" and entry["outcome"] == "ok" and entry["model"] == "sam_tiny"
    assert entry["image_sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["prompts"] == {"foreground": 2, "background": 1, "roi": 0}
    assert len(entry["checkpoint_sha256"]) == 64


def test_a_queued_segmentation_gets_a_line_when_it_is_done(server):
    answer = server.segment(jane_doe(), json.dumps(BOX), headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    timestamp = entry_of(server, answer)["timestamp"]
    deadline = time.monotonic() + 60
    jobs: list[dict] = []
    while not jobs and time.monotonic() < deadline:
        jobs = [entry for entry in audited(server) if entry["kind"] == "job" and entry["timestamp"] == timestamp]
        time.sleep(0.1)
    (job,) = jobs
    assert job["outcome"] == "ok" and job["image_sha256"] and job["checkpoint_sha256"]


def test_uploads_and_downloads_of_the_datastore_say_which_image(server):
    volume = (server.studies / f"{IMAGE}.nii.gz").read_bytes()
    sha256 = hashlib.sha256(volume).hexdigest()
    files = {"file": ("doe_3.nii.gz", volume)}
    answers = [
        requests.put(f"{server.url}/datastore/image?image=doe_3", files=files, timeout=60),
        server.get("/datastore/image?image=doe_3"),
        requests.delete(f"{server.url}/datastore/image?id=doe_3", timeout=60),
        requests.put(f"{server.url}/session/", files={"files": ("doe.nii.gz", volume)}, timeout=60),
    ]
    session = answers[-1].json()["session_id"]
    answers.append(
        server.post(f"/infer/sam_tiny?session_id={session}", data={"params": '{"foreground": [[20, 20, 8]]}'})
    )
    answers.append(server.post("/infer/sam_tiny", files=files, data={"params": '{"foreground": [[20, 20, 8]]}'}))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert entry_of(server, answer)["image_sha256"] == sha256


def test_what_was_refused_is_there_too_with_the_kind_of_error(server):
    refusals = {
        "UnsupportedImageError": server.segment(b"DOE^JANE is no image", "{}", name="DOE^JANE.txt"),
        "UnknownImageError": infer(server, "doe_john", foreground=[[1, 1, 1]]),
        "UnknownModelError": server.post("/infer/doe_net?image=x"),
        "UnknownResultError": server.get("/get_segmented_image/1.5"),
    }
    for reason, answer in refusals.items():
        entry = entry_of(server, answer)
        assert (entry["outcome"], entry["status"], entry["reason"]) == ("refused", answer.status_code, reason)


def exercise(server: Server) -> None:
    """Send a patient's name in every way that a client can."""
    volume = (server.studies / f"{IMAGE}.nii.gz").read_bytes()
    answers = [
        server.segment(jane_doe(), json.dumps({**BOX, "label": "DOE^JANE"}), name="DOE^JANE.dcm"),
        server.segment(jane_doe()[:-5000], json.dumps(BOX), name="DOE^JANE.dcm"),
        server.segment(b"DOE^JANE", '{"doe": "jane"}'),
        server.segment(b"DOE^JANE", json.dumps({"model": "DOE^JANE"})),
        infer(server, foreground=[[20, 20, 8]], label="doe", doe="jane", logging="DEBUG"),
        infer(server, foreground=[[999, 20, 8]], label_tag="doe"),
        infer(server, "doe_john", foreground="doe"),
        server.post("/infer/sam_tiny", files={"file": ("doe_jane.nii.gz", volume), "params": (None, '{"roi": "doe"}')}),
        requests.put(f"{server.url}/datastore/image?image=doe_2", files={"file": ("doe_2.nii.gz", volume)}, timeout=60),
        requests.put(
            f"{server.url}/datastore/label?image={IMAGE}&tag=doe",
            files={"label": ("doe.nii.gz", volume), "params": (None, '{"doe": "jane"}')},
            timeout=60,
        ),
        server.get(f"/datastore/label?label={IMAGE}&tag=doe"),
        server.get(f"/datastore/image?image={IMAGE}"),
        server.get(f"/datastore/image/info?image={IMAGE}"),
        requests.put(f"{server.url}/datastore/image/info?image={IMAGE}", data={"info": '{"n": "DOE"}'}, timeout=60),
        server.get("/datastore/?output=all"),
        requests.delete(f"{server.url}/datastore/image?id=doe_2", timeout=60),
        server.post("/activelearning/first", json={"client_id": "doe"}),
        requests.put(f"{server.url}/session/", files={"files": ("DOE^JANE.nii.gz", volume)}, timeout=60),
        server.get("/session/doe"),
        server.get("/proxy/dicom/qido/studies?PatientName=DOE"),
        server.get("/get_segmented_image/DOE"),
        server.get("/ohif/DOE/jane?StudyInstanceUIDs=DOE"),
        server.get("/DOE/jane?name=DOE"),
        requests.request("DOE", f"{server.url}/doe", timeout=60),
    ]
    assert not [answer.status_code for answer in answers if answer.status_code in (500, 502)]
    assert sum(answer.status_code == 200 for answer in answers) >= 10, [answer.status_code for answer in answers]
    time.sleep(1)  # MONAI Label looks for new files of its datastore in the background


def test_no_log_names_the_patient_or_the_place_of_the_images(server, app):
    started = server.log.stat().st_size
    exercise(server)
    application_log = (app / "logs" / "app.log").read_text(errors="replace")
    output = server.log.read_text(errors="replace")
    for text in (output, application_log, server.audit.read_text()):
        assert "doe" not in text.lower(), [line for line in text.splitlines() if "doe" in line.lower()]
    # MONAI Label itself prints the command line when it starts, before it loads the app.
    since = output[started:]
    assert str(server.studies) not in since and str(server.studies) not in server.audit.read_text()
    assert application_log.count(str(server.studies)) <= 1
    assert '"POST /infer/{model} HTTP/1.1" 200' in since and '"PUT /datastore/label HTTP/1.1" 200' in since


def test_an_error_in_the_log_and_its_line_in_the_audit_log_have_the_requests_id(server):
    image = np.full((40, 40), 128, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    server.results.chmod(0o700)
    moved = server.results.rename(server.results.with_name("gone"))
    try:
        answer = server.segment(buffer.getvalue(), "{}")
    finally:
        moved.rename(server.results)
    assert answer.status_code == 500
    entry = entry_of(server, answer)
    assert (entry["outcome"], entry["status"]) == ("failed", 500) and entry["reason"].endswith("Error")
    log = server.log.read_text(errors="replace")
    (line,) = [line for line in log.splitlines() if f"[{entry['request_id']}]" in line and "[ERROR]" in line]
    trace = log[log.index(line) :].splitlines()
    assert any(part.startswith("builtins.FileNotFoundError") for part in trace[:80])
    assert str(server.results) not in "\n".join(trace)


def test_metrics_tell_what_was_done_and_nobodys_name(server):
    answer = server.get("/metrics")
    assert answer.status_code == 200
    found = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }
    assert found["sam_http_requests_total", "POST", "/infer/{model}", "200"] >= 1
    stages = {key[1] for key in found if key[0] == "sam_stage_seconds_count"}
    assert stages >= {"read", "window", "encode", "decode", "write"}
    assert found["sam_model_state", "sam_tiny", "ready"] == 1 and found["sam_results",] >= 1
    assert found["sam_embedding_cache_hits_total",] + found["sam_embedding_cache_misses_total",] >= 2
    assert found["sam_jobs_total", "ok"] >= 1 and found["sam_queue_limit",] == 16
    assert found["process_resident_memory_bytes",] > 10**8
    assert "doe" not in answer.text.lower()


def test_with_a_login_the_audit_log_names_who_and_what_was_denied(tmp_path):
    key, entry = make_key("prometheus", ["user"], None)
    KeyFile(tmp_path / "keys.json").add(entry)
    with running_server(tmp_path / "server", "api_keys", str(tmp_path / "keys.json")) as server:
        denied = [server.get("/metrics"), infer(server, "doe_john"), server.get("/doe/jane")]
        header = {"Authorization": f"Bearer {key}"}
        assert server.get("/metrics", headers=header).status_code == 200
        allowed = entry_of(server, server.get("/datastore/?output=all", headers=header))
        entries = [entry_of(server, answer) for answer in denied]
        assert [entry["route"] for entry in entries] == ["/metrics", "/infer/{model}", "unmatched"]
        assert {(entry["status"], entry["user"], entry["reason"]) for entry in entries} == {(401, None, "NoLoginError")}
        assert (allowed["user"], allowed["status"]) == ("key:prometheus", 200)
        for text in (server.audit.read_text(), server.log.read_text(errors="replace")):
            assert key not in text and "doe" not in text


def test_a_server_that_cannot_write_its_audit_log_does_not_start(tmp_path, app):
    (tmp_path / "file").write_text("")
    line = command(tmp_path / "studies", free_port(), "audit_log", str(tmp_path / "file" / "audit.jsonl"), app=app)
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "Cannot start: the audit log" in done.stderr and "--conf audit_log FILE" in done.stderr

"""What ``scripts/precompute`` encoded is what the real server looks up: its first click does not encode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from phantom_series import ORGANS, SERIES
from support.orthanc import running_orthanc
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import REPOSITORY, SAM_APP, Server, running_server

pytestmark = pytest.mark.server

CT, MR = SERIES
SPLEEN = list(CT.grid.index(next(organ for organ in ORGANS if organ.name == "spleen").centre))
LOGIN = ("viewer", "correct horse")


def precompute(studies: Path | str, embeddings: Path, *arguments: str, variables: dict[str, str] | None = None) -> dict:
    script = REPOSITORY / "scripts" / "precompute.py"
    command = [sys.executable, str(script), "--studies", str(studies), "--embeddings", str(embeddings), "--json"]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SAM_APP), **(variables or {})},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing but the summary is said, and nothing of a patient"
    return json.loads(done.stdout)


@contextmanager
def server_of(folder: Path, studies: Path | str, embeddings: Path, variables: dict[str, str]) -> Iterator[Server]:
    conf = ("embeddings", str(embeddings), "models", "sam_tiny", "ahead", "0")  # all that is found was asked for
    with running_server(folder, *conf, studies=studies, variables=variables) as server:
        yield server


def click(server: Server, image: str, point: list[int], **params: object) -> dict:
    answer = server.post(
        f"/infer/sam_tiny?image={image}&output=json", data={"params": json.dumps({"foreground": [point], **params})}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def counts(server: Server) -> dict[str, float]:
    """How often requests had a stage, by its name; ``disk``: embeddings found there."""
    families = list(text_string_to_metric_families(server.get("/metrics").text))
    samples = [sample for family in families for sample in family.samples]
    stages = {one.labels["stage"]: one.value for one in samples if one.name == "sam_stage_seconds_count"}
    [disk] = [one.value for one in samples if one.name == "sam_embedding_disk_hits_total"]
    return {**stages, "disk": disk}


def encodes(server: Server) -> float:
    """How many requests encoded, waiting for the first: a request is counted after its answer is sent."""
    deadline = time.monotonic() + 10
    while "encode" not in counts(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    return counts(server).get("encode", 0)


def test_images_of_a_folder(tmp_path):
    studies, embeddings = tmp_path / "studies", tmp_path / "kept"
    studies.mkdir()
    values, _ = ball_volume()
    nibabel.Nifti1Image(values, BALL_AFFINE).to_filename(studies / "ball.nii.gz")
    disc = np.where(np.hypot(*np.mgrid[-90:110, -130:110]) <= 40, 190, 70).astype(np.uint8)
    Image.fromarray(disc).save(studies / "disc.png")
    summary = precompute(studies, embeddings)
    assert (summary["images"], summary["encoded"]) == (2, 17)
    with server_of(tmp_path / "server", studies, embeddings, {}) as server:
        i, j, k = BALL_CENTRE
        click(server, "ball", [i, j, k])
        click(server, "ball", [i, j, k + 3])
        click(server, "disc", [130, 90, 0])
        assert counts(server).get("encode", 0) == 0 and counts(server)["disk"] == counts(server)["embedding"] == 3
        click(server, "ball", [i, j, k])
        assert counts(server)["disk"] == 3, "by now it is in memory"
        click(server, "ball", [i, j, k], window="bone")
        assert encodes(server) == 1, "another window is another picture"
    assert precompute(studies, embeddings, "--window", "bone", "--series", "ball.nii.gz")["present"] == 1


@pytest.mark.long
def test_series_of_a_dicom_archive_with_a_login(tmp_path):
    """Two of three are asked for, and clicks on them do not encode; one on the third does."""
    embeddings = tmp_path / "kept"
    login = {"MONAI_LABEL_DICOMWEB_USERNAME": LOGIN[0], "MONAI_LABEL_DICOMWEB_PASSWORD": LOGIN[1]}
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache"), **login}
    with running_orthanc(tmp_path / "orthanc", login=LOGIN) as orthanc:
        orthanc.store(*(file for series in SERIES for file in series.write(tmp_path / "series")))
        older = pydicom.dcmread(next((tmp_path / "series").rglob("*.dcm")))
        older.PixelData = np.ascontiguousarray(older.pixel_array[::-1]).tobytes()  # the same pixels would be found
        older.StudyDate, older.Modality = "20200101", "CT"
        older.StudyInstanceUID, older.SeriesInstanceUID, older.SOPInstanceUID = "1.2.3", "1.2.3.4", "1.2.3.4.5"
        older.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
        older.save_as(tmp_path / "older.dcm")
        orthanc.store(tmp_path / "older.dcm")
        asked = ("--query", "StudyDate=20251201-20260131", "Modality=CT")
        summary = precompute(orthanc.dicomweb, embeddings, *asked, variables=variables)
        assert (summary["images"], summary["encoded"]) == (1, CT.grid.shape[0])
        assert precompute(orthanc.dicomweb, embeddings, *asked, variables=variables)["unchanged"] == 1
        summary = precompute(orthanc.dicomweb, embeddings, "--series", MR.series_uid, variables=variables)
        assert (summary["images"], summary["encoded"]) == (1, MR.grid.shape[0])
        with server_of(tmp_path / "server", orthanc.dicomweb, embeddings, variables) as server:
            assert click(server, CT.series_uid, SPLEEN)["window"]["source"] == "image"
            click(server, MR.series_uid, [80, 70, 10])
            assert counts(server).get("encode", 0) == 0 and counts(server)["disk"] == 2
            click(server, "1.2.3.4", [80, 70, 0])
            assert encodes(server) == 1, "it was not asked for"

        asked = ("--query", "StudyDate=20200101")
        for unchanged in (0, 1):
            assert precompute(orthanc.dicomweb, embeddings, *asked, variables=variables)["unchanged"] == unchanged
        older.SOPInstanceUID = older.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.6"
        older.ImagePositionPatient[2] += 5
        older.save_as(tmp_path / "one more.dcm")
        orthanc.store(tmp_path / "one more.dcm")
        summary = precompute(orthanc.dicomweb, embeddings, *asked, variables=variables)
        assert summary["unchanged"] == 0 and summary["encoded"] + summary["present"] == 2

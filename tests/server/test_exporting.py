"""The routes that make another format of labels: what they return, and what they refuse."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pydicom
import pytest

from support.phantoms import BALL_AFFINE, ball_volume
from support.rest import png
from support.served_app import ServedApp, served_app

NAMES = {"label_info": [{"name": "liver", "idx": 3}, {"name": "a/b", "idx": 7}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    """The app, with a volume among its studies."""
    with served_app(tmp_path_factory.mktemp("exporting") / "app") as one:
        nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(one.studies / "ball.nii.gz")
        yield one


@pytest.fixture
def export(served) -> Callable[..., httpx.Response]:
    def send(path: str, kind: str, label: bytes, name: str = "label.nii.gz", params: object = NAMES) -> httpx.Response:
        form = {"files": {"label": (name, label)}, "data": {"params": json.dumps(params)}}
        return served.ask("POST", f"{path}/export?type={kind}", **form)

    return send


@pytest.fixture(scope="module")
def ct(served) -> tuple[str, pydicom.Dataset]:
    """The path of a session with a CT image, and the image."""
    file = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    return f"/session/{served.put_session(('ct.dcm', file.read_bytes()))}", pydicom.dcmread(file)


def nifti(labels: np.ndarray, affine: np.ndarray = BALL_AFFINE) -> bytes:
    return nibabel.Nifti1Image(labels.astype(np.uint8), affine).to_bytes()


def two_objects() -> np.ndarray:
    """``(rows, columns)`` of the CT: a square of 3, and one of 7 with a hole."""
    labels = np.zeros((128, 128), np.uint8)
    labels[10:30, 40:70] = 3
    labels[50:90, 20:60] = 7
    labels[60:70, 30:40] = 0
    return labels


def test_a_segmentation_of_the_image_of_a_session(export, ct, dciodvfy, tmp_path):
    path, source = ct
    answer = export(path, "seg", png(two_objects()), "label.png")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/dicom"
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    assert dciodvfy(tmp_path / "seg.dcm") == []
    made = pydicom.dcmread(io.BytesIO(answer.content))
    assert made.StudyInstanceUID == source.StudyInstanceUID and made.PatientID == source.PatientID
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["liver", "a/b"]
    first, second = made.pixel_array
    assert np.array_equal(first > 0, two_objects() == 3) and np.array_equal(second > 0, two_objects() == 7)


def test_a_structure_set_of_the_image_of_a_session(export, ct, dciodvfy, tmp_path):
    path, source = ct
    answer = export(path, "rtstruct", png(two_objects()), "label.png")
    assert answer.status_code == 200, answer.text
    (tmp_path / "structures.dcm").write_bytes(answer.content)
    assert dciodvfy(tmp_path / "structures.dcm") == []
    made = pydicom.dcmread(io.BytesIO(answer.content))
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert [roi.ROIName for roi in made.StructureSetROISequence] == ["liver", "a/b"]
    (square,) = made.ROIContourSequence[0].ContourSequence
    corner = np.array(square.ContourData, float).reshape(-1, 3).min(axis=0)
    expected = np.array(source.ImagePositionPatient, float)[:2] + np.array([39.5, 9.5]) * float(source.PixelSpacing[0])
    np.testing.assert_allclose(corner[:2], expected, atol=1e-3)


def test_surfaces_of_an_image_of_the_datastore(export):
    labels = ball_volume()[1] * 3
    labels[:9, :9, :3] = 7
    answer = export("/images/ball", "stl", nifti(labels), "label.nii")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["3 liver.stl", "7 a_b.stl"]
        assert len(archive.read("3 liver.stl")) > 84 + 50 * 100


@pytest.mark.parametrize(
    ("path", "kind", "label", "name", "status", "said"),
    [
        ("/images/ball", "seg", nifti(ball_volume()[1]), "label.nii", 422, "needs a DICOM image"),
        ("/images/ball", "obj", nifti(ball_volume()[1]), "label.nii", 422, "rtstruct"),
        ("/images/ball", "stl", nifti(ball_volume()[1] * 0), "label.nii", 415, "empty"),
        ("/images/ball", "stl", nifti(ball_volume()[1][1:]), "label.nii", 422, "63"),
        ("/images/ball", "stl", b"no image", "label.nii", 415, ""),
        ("/images/none", "stl", nifti(ball_volume()[1]), "label.nii", 404, "has no image"),
        ("/session/none", "seg", nifti(ball_volume()[1]), "label.nii", 404, "no session"),
        ("ct", "stl", png(two_objects()), "label.png", 415, "needs a volume"),
        ("ct", "seg", png(two_objects()[1:]), "label.png", 422, "127"),
    ],
)
def test_what_cannot_be_made_says_why(export, ct, path, kind, label, name, status, said):
    refused = export(ct[0] if path == "ct" else path, kind, label, name)
    assert (refused.status_code, said in json.dumps(refused.json()["detail"])) == (status, True), refused.text

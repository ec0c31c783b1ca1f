"""Small pictures of the datastore's images."""

from __future__ import annotations

import io
from collections.abc import Iterator

import nibabel
import numpy as np
import pytest
from PIL import Image

from lib.server import thumbnails
from phantom_series import SAMPLE
from support.phantoms import BALL_AFFINE, ball_volume
from support.served_app import ServedApp, served_app


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    with served_app(tmp_path_factory.mktemp("small") / "app") as one:
        yield one


def small(served: ServedApp, image: str) -> np.ndarray:
    answer = served.get(f"/images/{image}/thumbnail")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_it_is_the_middle_frame_as_a_person_looks_at_it(served):
    """The phantom's spine is behind, and a patient lies with the face up, however the voxels are stored."""
    SAMPLE.write_nifti(served.studies / "torso.nii.gz")
    torso = nibabel.load(served.studies / "torso.nii.gz")
    turned = torso.as_reoriented(nibabel.orientations.axcodes2ornt("RAS"))
    turned.to_filename(served.studies / "turned.nii.gz")
    picture = small(served, "torso")
    assert picture.shape == (96, 96, 3)
    bone = picture[..., 0] == picture.max()
    assert np.argwhere(bone).mean(axis=0) == pytest.approx([63, 48], abs=3)
    assert np.array_equal(picture, small(served, "turned"))


def test_pixels_have_true_proportions(served):
    values = np.zeros((40, 20, 3), np.uint8)
    values[10:30] = 200
    nibabel.Nifti1Image(values, np.diag([1.0, 4.0, 1.0, 1.0])).to_filename(served.studies / "flat.nii.gz")
    assert small(served, "flat").shape[:2] == (96, 48)


def test_it_is_made_anew_when_the_file_has_changed(served):
    path = served.studies / "late.nii.gz"
    for volume in (ball_volume()[0], ball_volume()[0].max() - ball_volume()[0]):
        nibabel.Nifti1Image(volume, BALL_AFFINE).to_filename(path)
        last = small(served, "late")
    assert last[32, 48].mean() < last[5, 5].mean(), "the ball is dark now"


def test_there_is_none_of_what_is_damaged_or_large_until_it_was_read(served, monkeypatch):
    (served.studies / "cut.nii").write_bytes(nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_bytes()[:5000])
    monkeypatch.setattr(thumbnails, "MAX_BYTES", 1000)
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(served.studies / "big.nii")
    for image in ("cut", "big"):
        answer = served.get(f"/images/{image}/thumbnail")
        assert (answer.status_code, answer.content) == (204, b"")
    assert served.get("/images/big").status_code == 200
    assert small(served, "big").shape[1] == 96
    unknown = served.get("/images/nothing/thumbnail")
    assert unknown.status_code == 404 and "nothing" in unknown.json()["detail"]

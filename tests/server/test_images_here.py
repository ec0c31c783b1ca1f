"""Segmenting images that the server has already: of its datastore, folder or DICOMweb, and of sessions."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monailabel.interfaces.utils.app import app_instance

from lib.imaging.image_cache import image_sha256
from support.dicomweb_stand_in import StandIn, running_stand_in
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.rest import dice, picture
from support.series import ACQUISITIONS, write_series
from support.served_app import OTHER, OWNER, TRAINER, ServedApp, served_app
from support.small_archive import HeldSeries, SmallArchive, uid_of

POINT = {"positive_points": [{"x": int(BALL_CENTRE[0]), "y": int(BALL_CENTRE[1])}]}
ON_SLICE = {**POINT, "frame": int(BALL_CENTRE[2])}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    with served_app(tmp_path_factory.mktemp("here") / "app") as one:
        nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(one.studies / "ball.nii.gz")
        yield one


@pytest.fixture
def ball(served) -> bytes:
    return (served.studies / "ball.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """A sagittal series, in the order of ``k``."""
    sagittal = next(one for one in ACQUISITIONS if one.name == "sagittal")
    return write_series(tmp_path_factory.mktemp("series"), sagittal)


def test_a_study_and_a_session_are_segmented_like_the_same_file(served, ball):
    session = served.put_session(("ball.nii.gz", ball))
    masks, facts = [], []
    for sam_input, content in (
        (ON_SLICE, ball),
        ({**ON_SLICE, "image": "ball"}, None),
        ({**ON_SLICE, "session": session}, None),
    ):
        done = served.segment(sam_input, content)
        assert done.status_code == 200, done.text
        facts.append(json.loads(done.headers["SAM-Result"]))
        masks.append(picture(served.get(f"/get_segmented_image/{done.json()['timestamp']}?view=mask")))
    assert dice(masks[0] == 1, ball_volume()[1][..., int(BALL_CENTRE[2])].T > 0) > 0.8
    assert np.array_equal(masks[0], masks[1]) and np.array_equal(masks[0], masks[2])
    assert facts[0] == facts[1] == facts[2]


def test_the_audit_log_has_the_image_s_hash_whatever_it_was_named_by(served, files):
    session = served.put_session(*((file.name, file.read_bytes()) for file in files))
    assert served.segment({"image": "ball", "automatic": False}).status_code == 200
    assert served.segment({"session": session, "automatic": False}).status_code == 200
    hashes = [line["image_sha256"] for line in served.audited("/segment_input_image/")][-2:]
    assert hashes == [image_sha256(served.studies / "ball.nii.gz"), image_sha256(files[0].parent)]


def test_a_session_of_a_series(served, files):
    session = served.put_session(*((file.name, file.read_bytes()) for file in files))
    first = served.segment({"session": session, "frame": 4, **POINT})
    assert first.status_code == 200 and json.loads(first.headers["SAM-Result"])["frames"] == 20
    served.ask("DELETE", f"/session/{session}")
    timestamp = first.json()["timestamp"]
    again = served.segment({"refine": timestamp, "negative_points": [{"x": 1, "y": 1}]})
    started = served.segment({"start": timestamp, "negative_points": [{"x": 1, "y": 1}]})
    for done in (first, again, started):
        assert done.status_code == 200, done.text
        seg = pydicom.dcmread(io.BytesIO(served.get(f"/get_dicom_image/{done.json()['timestamp']}?type=seg").content))
        [instance] = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == pydicom.dcmread(files[4]).SOPInstanceUID
    assert served.get(f"/get_dicom_image/{timestamp}?type=source").status_code == 404


def test_a_frame_without_an_instance_to_refer_to_gets_a_source_of_its_own(served, files):
    sent = []
    for number, file in enumerate(files[:3]):
        dataset = pydicom.dcmread(file)
        if number == 1:
            dataset.SOPInstanceUID = ""
        dataset.save_as(buffer := io.BytesIO())
        sent.append((file.name, buffer.getvalue()))
    done = served.segment({"session": served.put_session(*sent), "frame": 1, **POINT}).json()["timestamp"]
    source, seg = (
        pydicom.dcmread(io.BytesIO(served.get(f"/get_dicom_image/{done}?type={kind}").content))
        for kind in ("source", "seg")
    )
    [instance] = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert source.PatientID == pydicom.dcmread(files[1]).PatientID


def test_the_version_is_that_of_what_was_looked_at(served, ball):
    version = served.get("/images/ball").json()["version"]
    assert served.segment({"image": "ball", "version": version, "automatic": False}).status_code == 200
    refused = served.segment({"image": "ball", "version": "other", "automatic": False})
    assert refused.status_code == 409 and "changed since it was opened" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("status", "said", "sam_input", "has_file"),
    [
        (404, "the datastore has no image 'none'", {"image": "none"}, False),
        (
            404,
            "the datastore has no image '../app/studies/ball.nii.gz'",
            {"image": "../app/studies/ball.nii.gz"},
            False,
        ),
        (404, "the datastore has no image ''", {"image": ""}, False),
        (404, "there is no session 'none'", {"session": "none"}, False),
        (422, "there is more than one image", {"image": "ball"}, True),
        (422, "there is more than one image", {"session": "none"}, True),
        (422, "there is more than one image", {"session": "none", "image": "ball"}, False),
        (422, "there is more than one image", {"image": "ball", "refine": "{}"}, False),
        (422, "there is more than one image", {"image": "ball", "start": "{}"}, False),
        (422, "version is for an image of the datastore", {"version": "1"}, True),
        (422, "there is no image", {}, False),
        (422, "did you mean image?", {"image_id": "ball"}, False),
        (422, "did you mean session?", {"session_id": "ball"}, False),
        (422, "did you mean image?", {"SeriesInstanceUID": "1.2"}, False),
    ],
)
def test_what_names_no_image_or_several_says_so(served, ball, status, said, sam_input, has_file):
    if "{}" in sam_input.values():
        sam_input = {key: served.send(ball) if value == "{}" else value for key, value in sam_input.items()}
    before = served.stored()
    for headers in ({}, {"Prefer": "respond-async"}):
        refused = served.segment(sam_input, ball if has_file else None, headers=headers)
        assert refused.status_code == status and said in str(refused.json()["detail"]), refused.text
        assert str(served.folder) not in refused.text
    assert served.stored() == before


def test_who_may_see_what(served, ball):
    session = served.put_session(("ball.nii.gz", ball))
    for user, by_image, by_session in ((None, 401, 401), (TRAINER, 403, 403), (OTHER, 200, 404), (OWNER, 200, 200)):
        for named, status in (({"image": "ball"}, by_image), ({"session": session}, by_session)):
            assert served.segment({**named, "automatic": False}, user=user).status_code == status


def test_openapi_says_it(served):
    fields = served.get("/openapi.json").json()["components"]["schemas"]["SAMInput"]["properties"]
    assert all(fields[name]["description"] for name in ("image", "session", "version"))


@pytest.fixture(scope="module")
def archive() -> Iterator[tuple[StandIn, HeldSeries]]:
    with running_stand_in() as stand_in:
        series = SmallArchive().serve(stand_in)
        series.arrive(*range(6))
        yield stand_in, series


@pytest.fixture(scope="module")
def with_archive(archive, served, tmp_path_factory) -> Iterator[ServedApp]:
    """Made after the other app, in whose place it then is."""
    with served_app(tmp_path_factory.mktemp("archive") / "app", studies=archive[0].url, max_queue="2") as one:
        yield one


class TestADicomWebServer:
    def test_its_series_is_segmented_and_referred_to(self, with_archive, archive):
        _, series = archive
        done = with_archive.segment({"image": series.uid, "frame": 2, "positive_points": [{"x": 30, "y": 30}]})
        assert done.status_code == 200, done.text
        timestamp = done.json()["timestamp"]
        seg = pydicom.dcmread(io.BytesIO(with_archive.get(f"/get_dicom_image/{timestamp}?type=seg").content))
        [instance] = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == uid_of(series.instances[2])
        assert seg.StudyInstanceUID == series.study
        [line] = with_archive.audited("/segment_input_image/")
        assert line["image_sha256"] and line["status"] == 200

    def test_its_slices_are_shown_without_asking_it_again(self, with_archive, archive):
        stand_in, series = archive
        facts = with_archive.get(f"/images/{series.uid}").json()
        assert facts["shape"] == [64, 64, 6]
        app_instance().datastore().folders.expire_all()
        asked = len(stand_in.requests)
        slices = f"/images/{series.uid}/slices/{facts['planes'][0]['name']}"
        assert with_archive.get(f"{slices}/1?version={facts['version']}").status_code == 200
        assert len(stand_in.requests) == asked
        other = with_archive.get(f"{slices}/1?version=other")
        assert other.status_code == 409 and len(stand_in.requests) > asked

    def test_what_it_does_not_have_is_404(self, with_archive):
        for name in ("1.2.3", "ball", "../x"):
            refused = with_archive.segment({"image": name})
            assert refused.status_code == 404 and "has no image" in refused.json()["detail"]

    def test_who_waits_for_it_has_a_place_among_the_segmentations(self, with_archive, archive, monkeypatch):
        stand_in, _ = archive
        quick, reached = stand_in.answer, threading.Event()

        def slow(path: str):
            reached.set()
            answer = quick(path)
            answer.body = [(30, piece) for _, piece in answer.body]
            return answer

        monkeypatch.setattr(stand_in, "answer", slow)
        answers = []
        asked = {"image": "1.2.3.4", "automatic": False}
        thread = threading.Thread(target=lambda: answers.append(with_archive.segment(asked)))
        thread.start()
        try:
            assert reached.wait(20)
            assert with_archive.app.state.admission.count == 1
            path = "/images/1.2.3.4"
            for busy in (
                with_archive.segment(asked),
                with_archive.get(path),
                with_archive.get(path + "/slices/axial/0?version=x"),
            ):
                assert busy.status_code == 429
        finally:
            stand_in.released.set()
            thread.join(30)
        assert answers[0].status_code == 404 and with_archive.app.state.admission.count == 0

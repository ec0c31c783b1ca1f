"""A mask lies where the image does, or is refused with a reason: sessions and uploads to the real server."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from lib.imaging.dicom.data_sets import read_dataset, to_bytes
from support.items import NO_PLACE, item
from support.patient import points, voxel_at
from support.series import ACQUISITIONS, LANDMARK, RADIUS, write_series

pytestmark = pytest.mark.server


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """A series of 20 slices, 3 mm apart."""
    return write_series(tmp_path / "series", ACQUISITIONS[0])


def session_of(server, files: list[Path]) -> str:
    with ExitStack() as opened:
        sent = [("files", (path.name, opened.enter_context(path.open("rb")))) for path in files]
        return str(requests.put(f"{server.url}/session/", files=sent, timeout=60).json()["session_id"])


def infer(server, session: str, voxel: list[int], model: str = "sam_tiny", output: str = "image", **params):
    return requests.post(
        f"{server.url}/infer/{model}",
        params={"session_id": session, "output": output},
        data={"params": json.dumps({"foreground": [voxel], "result_extension": ".nrrd", **params})},
        timeout=120,
    )


def kept(folder: Path, name: str, answer) -> Path:
    assert answer.status_code == 200, answer.text
    (folder / name).write_bytes(answer.content)
    return folder / name


def test_a_missing_slice_moves_no_mask(server, files, tmp_path):
    files.pop(11).unlink()  # beside the one that is clicked
    voxel = voxel_at(files[0].parent, LANDMARK)
    session = session_of(server, files)
    answer = infer(server, session, voxel)
    label = kept(tmp_path, "label.nrrd", answer)
    assert np.linalg.norm(points(label).mean(axis=0) - LANDMARK) < 1
    params = infer(server, session, voxel, output="json").json()
    assert "6 mm between slices 11 and 12 at a usual step of 3 mm" in params["image_notes"][0]

    refused = infer(server, session, voxel, "sam_tiny_3d")
    assert refused.status_code == 422 and "missing or unevenly spaced" in refused.json()["detail"]
    whole = kept(tmp_path, "seg.dcm", infer(server, session, voxel, "sam_tiny_3d", "dicom_seg"))
    found = points(whole)
    assert len(np.unique(found[:, 2].round(3))) > 4
    assert np.linalg.norm(found - LANDMARK, axis=1).max() < RADIUS + 4


def test_what_is_not_one_volume_is_refused_with_what_was_found(server, files):
    twin = read_dataset(files[4].read_bytes())
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = f"{twin.SOPInstanceUID}.1"[-60:].strip(".")
    extra = files[4].with_name("twin.dcm")
    extra.write_bytes(to_bytes(twin))
    answer = infer(server, session_of(server, [*files, extra]), [60, 40, 10])
    assert answer.status_code == 422
    assert "the 21 images are not one volume: they lie at 20 places" in answer.json()["detail"]


def test_frames_of_several_time_points_one_by_one(server, files, tmp_path):
    source = pydicom.dcmread(files[10])
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 3.0 * k])],
            FrameContentSequence=[item(TemporalPositionIndex=time)],
        )
        for time in (1, 2)
        for k in range(3)
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)],
    )
    for keyword in NO_PLACE:
        delattr(source, keyword)
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    source.NumberOfFrames, source.PixelData = 6, source.PixelData * 6
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], frames
    path = tmp_path / "several.dcm"
    path.write_bytes(to_bytes(source))

    for model in ("sam_tiny", "sam_tiny_3d"):
        answer = infer(server, session_of(server, [path]), [61, 38, 4], model)
        assert answer.status_code == 422
        assert "2 values (3, 3 times) of Temporal Position Index" in answer.json()["detail"]
    prompts = {"positive_points": [{"x": 61, "y": 38}], "frame": 4}
    made = server.post(
        "/segment_input_image/", files={"file": path.read_bytes()}, data={"sam_input": json.dumps(prompts)}
    )
    assert made.status_code == 200, made.text
    segmentation = read_dataset(server.get(f"/get_dicom_image/{made.json()['timestamp']}?type=seg").content)
    groups = segmentation.PerFrameFunctionalGroupsSequence[0]
    assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == [0, 0, 3]
    assert groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 5

"""DICOM of many kinds through the routes; what comes back is checked by dciodvfy and against the stored mask."""

from __future__ import annotations

import io
import json

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image

from lib.imaging.dicom.data_sets import to_bytes

pytestmark = pytest.mark.server

KINDS = {
    "CT_small.dcm": "CT, uncompressed",
    "MR_small_RLE.dcm": "MR, RLE",
    "MR_small_jp2klossless.dcm": "MR, JPEG 2000",
    "MR_small_jpeg_ls_lossless.dcm": "MR, JPEG-LS",
    "JPGExtended.dcm": "12-bit JPEG",
    "SC_rgb_jpeg_dcmtk.dcm": "RGB from YBR_FULL_422 JPEG",
    "SC_rgb_rle.dcm": "RGB, RLE",
    "ExplVR_BigEnd.dcm": "ultrasound, big endian",
    "image_dfl.dcm": "deflated",
    "MR_small_implicit.dcm": "implicit VR",
    "rtdose.dcm": "multi-frame",
}


def segment_and_check(server, content: bytes, dciodvfy, tmp_path) -> None:
    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    rows, columns = header.Rows, header.Columns
    box = {"startX": columns // 4, "startY": rows // 4, "width": columns // 2, "height": rows // 2}
    answer = server.segment(content, json.dumps({"rectangles": [box]}))
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    mask = np.asarray(Image.open(io.BytesIO(server.get(f"/get_segmented_image/{timestamp}?view=mask").content)))
    assert mask.shape == (rows, columns)

    for query, name in (("", "capture.dcm"), ("?type=seg", "seg.dcm")):
        response = server.get(f"/get_dicom_image/{timestamp}{query}")
        assert response.status_code == 200 and response.headers["content-type"] == "application/dicom"
        (tmp_path / name).write_bytes(response.content)
        assert dciodvfy(tmp_path / name) == [], name
        made = pydicom.dcmread(tmp_path / name)
        assert made.StudyInstanceUID == header.StudyInstanceUID
        assert made.get("PatientID", "") == header.get("PatientID", "")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert np.array_equal(seg.pixel_array.reshape(mask.shape), mask == 1)
    instance = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == header.SOPInstanceUID


@pytest.mark.parametrize("name", KINDS, ids=KINDS.values())
def test_kinds_of_dicom(server, sample, dciodvfy, tmp_path, name):
    segment_and_check(server, sample(name).read_bytes(), dciodvfy, tmp_path)


def test_monochrome1_is_shown_as_a_viewer_shows_it(server, sample, dciodvfy, tmp_path):
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    plain = server.segment(to_bytes(dataset), '{"positive_points": [{"x": 60, "y": 60}]}').json()["timestamp"]
    dataset.PhotometricInterpretation = "MONOCHROME1"
    segment_and_check(server, to_bytes(dataset), dciodvfy, tmp_path)
    inverted = server.segment(to_bytes(dataset), '{"positive_points": [{"x": 60, "y": 60}]}').json()["timestamp"]
    pictures = [
        np.asarray(Image.open(io.BytesIO(server.get(f"/get_segmented_image/{number}?view=image").content)))
        for number in (plain, inverted)
    ]
    assert np.array_equal(pictures[0], 255 - pictures[1])


@pytest.mark.parametrize("image_format", ["PNG", "NIfTI"])
def test_what_was_no_dicom_becomes_valid_dicom(server, dciodvfy, tmp_path, image_format):
    if image_format == "NIfTI":
        content = (server.studies / "ball.nii.gz").read_bytes()
        sam_input = {"rectangles": [{"startX": 18, "startY": 12, "width": 25, "height": 25}], "frame": 7}
    else:
        content = (server.studies / "disc.png").read_bytes()
        sam_input = {"rectangles": [{"startX": 90, "startY": 50, "width": 80, "height": 80}]}
    timestamp = server.segment(content, json.dumps(sam_input)).json()["timestamp"]
    for kind in ("sc", "seg", "source"):
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(server.get(f"/get_dicom_image/{timestamp}?type={kind}").content)
        assert dciodvfy(path) == [], kind
        assert pydicom.dcmread(path).PatientName == ""


def test_a_real_jpeg_2000_ct(server, shared_data, dciodvfy, tmp_path):
    """Its Window Center has two values, and its pixels are 16 bits with a rescale intercept of -1024."""
    content = (shared_data / "ct_j2k" / "010.dcm").read_bytes()
    segment_and_check(server, content, dciodvfy, tmp_path)
    sam_input = '{"rectangles": [{"startX": 100, "startY": 190, "width": 140, "height": 190}]}'
    answer = server.segment(content, sam_input)
    window = json.loads(answer.headers["SAM-Result"])["window"]
    assert window == {"center": 40.0, "width": 300.0, "source": "image"}

"""The four routes of a real server, as a REST client uses them."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
import requests
from PIL import Image
from pydicom.data import get_testdata_file

from support.rest import DISC, DISC_BOX, dice, picture, png

pytestmark = pytest.mark.server


def test_a_png_through_all_four_routes(server, disc):
    image, truth = disc
    answer = server.segment(png(image), DISC)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["timestamp"]
    timestamp = answer.json()["timestamp"]
    assert abs(timestamp - time.time()) < 60

    facts = json.loads(answer.headers["SAM-Result"])
    assert facts["model"] == "sam_tiny" and facts["slice"] == 0 and len(facts["scores"]) == 1

    mask = picture(server.get(f"/get_segmented_image/{timestamp}?view=mask"))
    assert mask.shape == truth.shape and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    assert dice(mask == 1, truth) > 0.85
    assert facts["areas"] == [np.count_nonzero(mask)]

    shown = picture(server.get(f"/get_segmented_image/{timestamp}?view=image"))
    assert np.array_equal(shown, image)
    overlay = picture(server.get(f"/get_segmented_image/{timestamp}"))
    assert overlay.shape == image.shape
    changed = (overlay != image).any(axis=2)
    assert np.array_equal(changed, mask == 1)
    contour = picture(server.get(f"/get_segmented_image/{timestamp}?view=contour"))
    changed = (contour != image).any(axis=2)
    assert changed.any() and not changed[mask == 0].any() and not changed[88:92, 128:132].any()

    dicom = server.get(f"/get_dicom_image/{timestamp}")
    assert dicom.status_code == 200 and dicom.headers["content-type"] == "application/dicom"
    capture = pydicom.dcmread(io.BytesIO(dicom.content))
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert np.array_equal(capture.pixel_array, overlay)
    assert capture.PatientName == "" and capture.PatientID == ""

    seg = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{timestamp}?type=seg").content))
    assert seg.SOPClassUID.name == "Segmentation Storage" and seg.SegmentationType == "BINARY"
    assert np.array_equal(seg.pixel_array.reshape(mask.shape), mask == 1)
    source = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{timestamp}?type=source").content))
    assert np.array_equal(source.pixel_array, image)
    assert seg.StudyInstanceUID == capture.StudyInstanceUID == source.StudyInstanceUID
    for instance in (
        seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0],
        capture.SourceImageSequence[0],
    ):
        assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_a_ct_through_all_four_routes(server):
    path = get_testdata_file("CT_small.dcm", download=False)
    source = pydicom.dcmread(path)
    sam_input = {
        "rectangles": [{"startX": 30, "startY": 40, "width": 60, "height": 50}],
        "positive_points": [{"x": 60, "y": 60}],
        "negative_points": [{"x": 3, "y": 3}],
        "label": "test region",
    }
    with open(path, "rb") as file:
        answer = server.segment(file.read(), json.dumps(sam_input))
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    mask = picture(server.get(f"/get_segmented_image/{timestamp}?view=mask"))
    assert mask.shape == (128, 128) and mask[60, 60] == 1
    for query, name in (("", "Secondary Capture Image Storage"), ("?type=seg", "Segmentation Storage")):
        dataset = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{timestamp}{query}").content))
        assert dataset.SOPClassUID.name == name
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert dataset.PatientID == source.PatientID and dataset.PatientName == source.PatientName
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert server.get(f"/get_dicom_image/{timestamp}?type=source").status_code == 404
    assert dataset.SegmentSequence[0].SegmentLabel == "test region"
    assert np.array_equal(dataset.pixel_array.reshape(128, 128), mask == 1)


def test_every_format_of_the_same_picture_gives_the_same_mask(server, disc):
    image, _ = disc
    masks = []
    for image_format in ("PNG", "TIFF", "BMP"):
        answer = server.segment(png(image, image_format), DISC)
        assert answer.status_code == 200, answer.text
        masks.append(picture(server.get(f"/get_segmented_image/{answer.json()['timestamp']}?view=mask")))
    assert all(np.array_equal(masks[0], mask) for mask in masks)
    jpeg = server.segment(png(image, "JPEG"), DISC).json()["timestamp"]
    assert dice(picture(server.get(f"/get_segmented_image/{jpeg}?view=mask")) == 1, masks[0] == 1) > 0.95


def test_several_rectangles_are_numbered_objects(server):
    image = np.full((160, 300), 60, np.uint8)
    image[40:100, 30:100] = 200
    image[60:130, 180:260] = 200
    boxes = [(175, 55, 90, 80), (25, 35, 80, 70)]
    rectangles = [dict(zip(("startX", "startY", "width", "height"), box, strict=True)) for box in boxes]
    answer = server.segment(png(image), json.dumps({"rectangles": rectangles}))
    mask = picture(server.get(f"/get_segmented_image/{answer.json()['timestamp']}?view=mask"))
    assert set(np.unique(mask)) == {0, 1, 2}
    assert mask[95, 220] == 1 and mask[70, 60] == 2
    seg = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{answer.json()['timestamp']}?type=seg").content))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Object 1", "Object 2"]


@pytest.mark.parametrize(
    "sam_input",
    [None, pytest.param('{"model": "sam", "rectangles": null, "positive_points": []}', marks=pytest.mark.long)],
)
def test_without_prompts_objects_are_found_automatically(server, disc, sam_input):
    image, truth = disc
    answer = server.segment(png(image), sam_input)
    assert answer.status_code == 200, answer.text
    mask = picture(server.get(f"/get_segmented_image/{answer.json()['timestamp']}?view=mask"))
    numbers = set(np.unique(mask)) - {0}
    assert numbers == set(range(1, len(numbers) + 1)) and numbers
    assert max(dice(mask == number, truth) for number in numbers) > 0.7


def test_frames_of_a_multi_frame_image(server):
    with open(get_testdata_file("SC_rgb_rle_2frame.dcm", download=False), "rb") as file:
        content = file.read()
    prompts = {"rectangles": [{"startX": 10, "startY": 10, "width": 50, "height": 50}]}
    for frame in (0, 1):
        answer = server.segment(content, json.dumps({**prompts, "frame": frame}))
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.headers["SAM-Result"])["slice"] == frame
        seg = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{answer.json()['timestamp']}?type=seg").content))
        derivation = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert derivation.ReferencedFrameNumber == frame + 1
    assert server.segment(content, json.dumps({**prompts, "frame": 2})).status_code == 422


def test_the_result_says_what_made_it(server, disc):
    image = disc[0].copy()
    image[0, 0] = 255  # no other test sends this one, so that it has to be read
    timestamp = server.segment(png(image), DISC).json()["timestamp"]
    folder = server.results / f"{timestamp:.6f}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["request"]["rectangles"] == [DISC_BOX]
    assert manifest["result"]["model"] == "sam_tiny" and len(manifest["result"]["checkpoint_sha256"]) == 64
    assert manifest["input"]["format"] == "PNG" and manifest["input"]["columns"] == 240
    assert manifest["user"] and "torch" in manifest["versions"]
    assert all(manifest["latency_ms"][stage] > 0 for stage in ("read", "decode", "write"))


def test_files_are_made_when_they_are_asked_for_and_kept(server, disc):
    timestamp = server.segment(png(disc[0]), DISC).json()["timestamp"]
    folder = server.results / f"{timestamp:.6f}"
    at_once = {"input", "manifest.json", "frame.npy", "mask.png", "logits.npz"}
    assert {path.name for path in folder.iterdir()} == at_once
    tag = f'"{timestamp}-overlay.png"'
    assert server.get(f"/get_segmented_image/{timestamp}", headers={"If-None-Match": tag}).status_code == 304
    assert server.get(f"/get_segmented_image/{timestamp}?view=mask").status_code == 200
    assert {path.name for path in folder.iterdir()} == at_once, "neither of the two needs another file"

    head = requests.head(f"{server.url}/get_dicom_image/{timestamp}?type=seg", timeout=60)
    made = {"segmentation.dcm", "source.dcm"}
    assert {path.name for path in folder.iterdir()} == at_once | made, "what it references was made, too"
    assert int(head.headers["content-length"]) == (folder / "segmentation.dcm").stat().st_size
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert listed == {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"}
    again = server.get(f"/get_dicom_image/{timestamp}?type=seg")
    assert again.content == (folder / "segmentation.dcm").read_bytes() and again.headers["etag"] == head.headers["etag"]


@pytest.mark.parametrize(
    ("sam_input", "status", "said"),
    [
        ("{", 422, "JSON"),
        ("[]", 422, "valid dictionary"),
        ('{"rectangles": [{"startX": 1}]}', 422, "startY"),
        ('{"rectangle": []}', 422, "rectangle"),
        ('{"positive_points": [{"x": "left", "y": 1}]}', 422, "valid number"),
        ('{"positive_points": [{"x": NaN, "y": 1}]}', 422, "finite"),
        ('{"positive_points": [{"x": 1e999, "y": 1}]}', 422, "finite"),
        ('{"positive_points": [{"x": 240, "y": 1}]}', 422, "x must be from 0 to 239, y from 0 to 199"),
        ('{"negative_points": [{"x": 1, "y": 1}]}', 422, "nothing marks the object"),
        ('{"rectangles": [{"startX": 1, "startY": 1, "width": 0, "height": 5}]}', 422, "no area"),
        ('{"rectangles": [{"startX": 900, "startY": 1, "width": 5, "height": 5}]}', 422, "outside the image"),
        ('{"positive_points": [' + ",".join(['{"x": 1, "y": 1}'] * 1001) + "]}", 422, "at most 1000"),
        ('{"window": {"center": 1, "width": 0}}', 422, "greater than 0"),
        ('{"model": "sam_vit_x"}', 404, "sam_tiny"),
        ('{"model": "../sam_tiny"}', 404, "sam_tiny"),
        ("[" * 100_000, 422, "JSON"),
    ],
)
def test_bad_requests_are_answered_with_the_reason(server, disc, sam_input, status, said):
    before = sorted(server.results.iterdir())
    answer = server.segment(png(disc[0]), sam_input)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert_says_nothing_of_the_server(answer.text)
    assert sorted(server.results.iterdir()) == before


def assert_says_nothing_of_the_server(text: str) -> None:
    for secret in ("Traceback", "site-packages", "/tmp", "/work", "/root", "/home", ".py"):
        assert secret not in text


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 415, ""),
        (b"hello, this is text", 415, "text"),
        (b"%PDF-1.7 ...", 415, "PDF"),
        (b"GIF89a" + bytes(50), 415, "GIF"),
        (b"PK\x03\x04" + bytes(50), 415, "ZIP"),
    ],
)
def test_what_is_no_image_is_refused_by_what_was_found(server, content, status, said):
    answer = server.segment(content, DISC)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert_says_nothing_of_the_server(answer.text)


def test_truncated_images_are_refused(server, disc):
    with open(get_testdata_file("CT_small.dcm", download=False), "rb") as file:
        ct = file.read()
    for content, statuses in ((png(disc[0])[:2000], [422]), (ct[:20000], [422]), (ct[:3000], [415, 422])):
        answer = server.segment(content, DISC)
        assert answer.status_code in statuses, answer.text
        assert_says_nothing_of_the_server(answer.text)


def test_a_huge_image_is_refused_before_it_is_decoded(server):
    header = io.BytesIO()
    Image.new("1", (40000, 40000)).save(header, "PNG")
    started = time.monotonic()
    answer = server.segment(header.getvalue(), DISC)
    assert answer.status_code == 413, answer.text
    assert time.monotonic() - started < 10


def test_a_missing_file_or_another_body_is_refused(server):
    assert server.post("/segment_input_image/", data={"sam_input": DISC}).status_code == 422
    assert server.post("/segment_input_image/", json={"rectangles": []}).status_code == 415
    assert server.get("/segment_input_image/").status_code == 405


def test_a_part_of_another_name_is_refused_and_not_taken_for_a_request_without_prompts(server, disc):
    answer = server.post("/segment_input_image/", files={"file": png(disc[0])}, data={"input": DISC})
    assert answer.status_code == 422
    reads = "this route reads `file`, `mask`, `protect`, `sam_input`"
    assert answer.json()["detail"] == f"the form has a part called 'input'; {reads}: did you mean `sam_input`?"
    answer = server.post("/segment_input_image/", files={"dicom": png(disc[0])})
    assert answer.json()["detail"] == f"the form has a part called 'dicom'; {reads}"


def test_a_wrong_key_is_told_the_right_one(server, disc):
    """All at once, each where it stands, and nothing of what was sent but the key."""
    sent = {"points": [{"x": 130, "y": 90}], "rectangles": [{"x": 91, "y": 51, "width": 79, "height": 79}]}
    answer = server.segment(png(disc[0]), json.dumps(sent))
    assert answer.status_code == 422
    told = {tuple(one["loc"]): one["msg"] for one in answer.json()["detail"]}
    assert told == {
        ("body", "sam_input", "points"): "there is no 'points' here; did you mean positive_points?",
        ("body", "sam_input", "rectangles", 0, "startX"): "'startX' is missing; 'x' is called startX here",
        ("body", "sam_input", "rectangles", 0, "startY"): "'startY' is missing; 'y' is called startY here",
    }


@pytest.mark.parametrize("route", ["get_segmented_image", "get_dicom_image"])
def test_unknown_results_are_not_found(server, route):
    answer = server.get(f"/{route}/1234567890.5")
    assert answer.status_code == 404 and answer.json() == {"detail": "there is no result 1234567890.5"}
    for text in ("abc", "-1", "nan", "..%2f..%2fetc", "1e400", "9" * 400):
        assert server.get(f"/{route}/{text}").status_code in (404, 422), text
    assert server.get(f"/{route}/1234567890.5?view=xray&type=xray").status_code == 422


def test_timestamps_can_be_printed_in_the_clients_own_way(server, disc):
    timestamp = server.segment(png(disc[0]), DISC).json()["timestamp"]
    for text in (f"{timestamp:.6f}", f"{timestamp:.6f}000", repr(timestamp)):
        assert server.get(f"/get_segmented_image/{text}").status_code == 200, text


def test_health(server):
    answer = server.get("/health_check/")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok" and health["models"]["sam_tiny"] == "ready"
    assert health["default_model"] == "sam_tiny" and health["queue"]["running"] == 0
    assert health["runtime"].startswith("OpenVINO ") and health["uptime_seconds"] > 0


def test_the_routes_are_in_the_api_documentation_which_needs_no_other_host(server):
    paths = server.get("/openapi.json").json()["paths"]
    for path in (
        "/segment_input_image/",
        "/get_segmented_image/{timestamp}",
        "/get_dicom_image/{timestamp}",
        "/health_check/",
        "/infer/{model}",
    ):
        assert path in paths
    assert list(paths["/infer/{model}"]) == ["post"]
    html = server.get("/docs").text
    assert "swagger-ui" in html and "https://" not in html and "http://" not in html
    for asset in [piece.split('"')[0] for piece in html.split('="')[1:] if piece.startswith("/sam/")]:
        assert server.get(asset).status_code == 200, asset


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://localhost", True), ("http://localhost:3000", True), ("http://evil.example", False), ("null", False)],
)
def test_cors(server, origin, allowed):
    answer = server.get("/health_check/", headers={"Origin": origin})
    assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    preflight = requests.options(
        server.url + "/segment_input_image/",
        headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        timeout=30,
    )
    assert preflight.status_code == (200 if allowed else 400)
    assert "Server-Timing" in answer.headers["access-control-expose-headers"]  # of no use without the line above
    assert "timing-allow-origin" not in answer.headers


def test_concurrent_uploads_get_what_they_get_alone(server):
    rng = np.random.default_rng(5)
    images = []
    for n in range(4):
        image = np.full((150 + 10 * n, 200), 60, np.uint8)
        image[40 : 90 + 5 * n, 50:120] = 200
        images.append(png(image + rng.integers(0, 9, image.shape, dtype=np.uint8)))
    box = json.dumps({"rectangles": [{"startX": 45, "startY": 35, "width": 80, "height": 65}]})

    def mask(content: bytes) -> bytes:
        timestamp = server.segment(content, box).json()["timestamp"]
        return server.get(f"/get_segmented_image/{timestamp}?view=mask").content

    alone = [mask(content) for content in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(mask, images * 4))
    assert together == alone * 4


@pytest.mark.long
def test_light_routes_answer_while_segmentation_runs(server, disc):
    """An automatic segmentation takes seconds; a server that ran it on its event loop would answer nothing else."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.segment, png(disc[0]), None)
        answered = 0
        while not running.done():
            health = server.get("/health_check/").json()
            answered += health["queue"]["running"] == 1
            assert server.get("/info/").status_code == 200
        assert running.result().status_code == 200
    assert answered >= 2

"""A folder of images behind a real server: nothing is lost without a word, and one bad file stops nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from collections.abc import Iterator

import nibabel
import numpy as np
import pytest
import requests
from PIL import Image

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

BALL = gzip.compress(nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_bytes())
OTHER = gzip.compress(nibabel.Nifti1Image(np.full((64, 48, 16), 7, np.int16), BALL_AFFINE).to_bytes())
SMALL = gzip.compress(nibabel.Nifti1Image(np.ones((32, 48, 16), np.uint8), BALL_AFFINE).to_bytes())
LABEL = gzip.compress(nibabel.Nifti1Image(ball_volume()[1].astype(np.uint8), BALL_AFFINE).to_bytes())
MOVED = gzip.compress(
    nibabel.Nifti1Image(ball_volume()[1].astype(np.uint8), BALL_AFFINE + 190 * np.eye(4, k=3)).to_bytes()
)
PROMPT = {"foreground": [list(BALL_CENTRE)]}
BAD = ("0 cut.nii.gz", "1 empty.nii.gz", "2 text.png", "3 folder.nii.gz", "._4.nii.gz")
"""Before all others in the order of names."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studies")
    studies = folder / "studies"
    studies.mkdir()
    (studies / "ball.nii.gz").write_bytes(BALL)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)).save(studies / "picture.png")
    (studies / BAD[0]).write_bytes(BALL[: len(BALL) // 2])
    (studies / BAD[1]).touch()
    (studies / BAD[2]).write_text("no picture")
    (studies / BAD[3]).mkdir()
    (studies / BAD[4]).write_bytes(bytes(100))
    os.mkfifo(studies / "5 pipe.nii")
    with running_server(folder) as running:
        deadline = time.monotonic() + 60  # files are read in the background, with a low priority
        while BAD[0] not in running.get("/datastore/?output=all").json()["left_out"] and time.monotonic() < deadline:
            time.sleep(0.2)
        yield running


def put(server: Server, path: str, name: str, content: bytes, field: str = "file") -> requests.Response:
    return requests.put(server.url + path, files={field: (name, content)}, timeout=60)


def listed(server: Server) -> set[str]:
    return set(server.get("/datastore/?output=all").json()["objects"])


def test_what_is_no_image_is_named_in_the_list_and_never_offered(server):
    answer = server.get("/datastore/?output=all").json()
    assert set(answer["objects"]) >= {"ball", "picture"} and not any(name[0] in "0123." for name in answer["objects"])
    assert {*BAD, "5 pipe.nii"} == set(answer["left_out"])
    assert server.get("/datastore/").json()["left_out"] == len(BAD) + 1
    for strategy in ("first", "random", "uncertainty"):
        offered = {server.post(f"/activelearning/{strategy}", json={}).json()["id"] for _ in range(4)}
        assert offered <= {"ball", "picture"}
    log = server.log.read_text(errors="replace")
    assert "left out of the studies" in log and not any(name in log for name in BAD)


def test_a_batch_goes_on_past_what_cannot_be_opened(server):
    picture = nibabel.Nifti1Image(np.pad(np.ones((9, 9, 1), np.uint8), ((20, 21), (15, 16), (0, 0))), np.eye(4))
    labels = {"ball": LABEL, "picture": gzip.compress(picture.to_bytes())}
    for image, label in labels.items():  # a batch takes its prompts from them
        put(server, f"/datastore/label?image={image}&tag=original", "l.nii.gz", label, "label").raise_for_status()
    body = {"label_tag": "batch", "prompts": "labels"}
    results = server.post("/batch/infer/sam_tiny?run_sync=true", json=body).json()
    assert set(results) == {"ball", "picture"} and not any("error" in result for result in results.values())


def test_an_image_that_is_damaged_after_it_was_listed_is_passed_over(server):
    path = server.studies / "00 late.nii.gz"
    path.write_bytes(BALL)
    assert "00 late" in listed(server)
    path.write_bytes(BALL[: len(BALL) // 2])
    assert server.post("/activelearning/first", json={}).json()["id"] == "ball"
    assert "00 late" not in listed(server)
    path.write_bytes(BALL)
    assert server.post("/activelearning/first", json={}).json()["id"] == "00 late"
    path.unlink()
    assert "00 late" not in listed(server)


@pytest.mark.parametrize(
    ("query", "name"),
    [("?image=ball", "a.nii.gz"), ("?image=ball", "a.NII"), ("?image=Ball", "a.nii.gz"), ("", "ball.nii.gz")],
)
@pytest.mark.parametrize("route", ["/datastore/image", "/datastore/"])
def test_an_image_is_never_replaced(server, route, query, name):
    content = OTHER if name.endswith("gz") else gzip.decompress(OTHER)
    refused = put(server, route + query, name, content)
    assert refused.status_code == 409 and "delete it first" in refused.json()["detail"]
    assert server.get("/datastore/image?image=ball").content == BALL


def test_files_with_dots_in_their_names_are_images_of_their_own(server):
    for number in (1, 2):
        answer = put(server, "/datastore/image", f"Doe.{number}.nii.gz", BALL)
        assert answer.json() == {"image": f"Doe.{number}"}, "upstream calls both of them Doe"
    for number in (1, 2):
        assert requests.delete(f"{server.url}/datastore/image?id=Doe.{number}", timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("path", "name", "field"),
    [
        ("/datastore/image?image=new", "a.nii.gz", "file"),
        ("/datastore/label?image=ball", "a.nii.gz", "label"),
        ("/session/", "a.nii.gz", "files"),
    ],
)
def test_empty_uploads_are_refused(server, path, name, field):
    refused = put(server, path, name, b"", field)
    assert refused.status_code == 415 and "is empty" in refused.json()["detail"]
    assert "new" not in listed(server)


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_an_empty_image_to_segment_is_refused_before_anything_is_stored(server, prefer):
    before = sorted(server.results.iterdir())
    refused = server.segment(b"", "{}", headers={"Prefer": prefer})
    assert refused.status_code == 415 and sorted(server.results.iterdir()) == before


@pytest.mark.parametrize("field", ["file", "label"])
def test_an_empty_file_to_infer_from_is_refused(server, field):
    files = {"file": ("a.nii.gz", BALL), field: ("a.nii.gz", b"")}
    refused = server.post("/infer/sam_tiny", files=files, data={"params": json.dumps(PROMPT)})
    assert refused.status_code == 415 and "is empty" in refused.json()["detail"]


def test_what_is_no_image_is_not_taken_for_one(server):
    refused = put(server, "/datastore/image?image=new", "a.nii.gz", b"no image at all")
    assert refused.status_code == 415 and "found: text" in refused.json()["detail"] and "new" not in listed(server)
    refused = put(server, "/datastore/image?image=new", "a.nii.gz", BALL[: len(BALL) // 2])
    assert refused.status_code == 422 and "truncated" in refused.json()["detail"] and "new" not in listed(server)


@pytest.mark.parametrize(("label", "name"), [(SMALL, "l.nii.gz"), (MOVED, "l.nii.gz"), (b"123", "l.bin")])
def test_a_label_that_does_not_lie_on_its_image_is_refused(server, label, name):
    assert put(server, "/datastore/label?image=ball&tag=mine", "l.nii.gz", LABEL, "label").status_code == 200
    refused = put(server, "/datastore/label?image=ball&tag=mine", name, label, "label")
    assert refused.status_code == 422 and "64 x 48 x 16" in refused.json()["detail"]
    assert server.get("/datastore/label?label=ball&tag=mine").content == LABEL
    for task in ("sam_tiny", "sam_tiny_3d"):
        sent = {"params": json.dumps(PROMPT)}
        refused = server.post(f"/infer/{task}?image=ball", files={"label": (name, label)}, data=sent)
        assert refused.status_code == 422 and "64 x 48 x 16" in refused.json()["detail"]
        fine = server.post(f"/infer/{task}?image=ball", files={"label": ("l.nii.gz", LABEL)}, data=sent)
        assert fine.status_code == 200


def test_files_of_a_session_do_not_replace_each_other(server):
    files = [("files", (f"{folder}/IM1", BALL)) for folder in "ab"]
    made = requests.put(f"{server.url}/session/", files=files, timeout=60)
    assert made.status_code == 200, made.text
    seen = server.get(f"/session/{made.json()['session_id']}/view")
    assert seen.status_code == 415 and "no DICOM image" in seen.json()["detail"], "two volumes are no series"
    refused = put(server, "/session/", "meta.info", BALL, "files")
    assert refused.status_code == 409 and "meta.info" in refused.json()["detail"]


def test_head_is_answered_where_get_is(server):
    put(server, "/datastore/label?image=ball", "l.nii.gz", LABEL, "label")
    paths = [
        *("/", "/docs", "/openapi.json", "/info/", "/health_check/", "/metrics", "/sam/", "/sam/page/main.js"),
        *("/datastore/", "/datastore/?output=all", "/datastore/image?image=ball", "/datastore/image/info?image=ball"),
        *("/datastore/label?label=ball&tag=final", "/datastore/label/info?label=ball&tag=final", "/datastore/dataset"),
        *("/train/", "/batch/infer", "/ohif/", "/favicon.ico", "/get_segmented_image/1", "/get_dicom_image/1"),
        *("/proxy/dicom/studies", "/session/none", "/nowhere"),
    ]
    for path in paths:
        head = requests.head(server.url + path, timeout=60)
        assert head.status_code == server.get(path).status_code != 405, path
        assert not head.content
    upstream = requests.head(f"{server.url}/datastore/label?image=ball&tag=final", timeout=60)
    assert upstream.status_code == 200, "upstream's parameter"
    assert "head" not in server.get("/openapi.json").json()["paths"]["/info/"]


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain"])
def test_text_fields_may_come_as_files(server, content_type):
    picture = io.BytesIO()
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(picture, "PNG")
    text = json.dumps({"positive_points": [{"x": 29, "y": 9}]})
    answer = server.post(
        "/segment_input_image/",
        files={"file": ("a.png", picture.getvalue()), "sam_input": ("blob", text, content_type)},
    )
    assert answer.status_code == 200 and json.loads(answer.headers["SAM-Result"])["slice_source"] == "middle"
    outside = text.replace("29", "30")
    answer = server.post(
        "/segment_input_image/",
        files={"file": ("a.png", picture.getvalue()), "sam_input": ("blob", outside, content_type)},
    )
    assert answer.status_code == 422, "it was read"
    params = ("blob", json.dumps({"foreground": "none"}), content_type)
    answer = server.post("/infer/sam_tiny?image=ball", files={"params": params})
    assert answer.status_code == 422 and "foreground" in answer.json()["detail"]
    answer = requests.put(
        f"{server.url}/datastore/image/info?image=ball", files={"info": ("b", '{"a": 1}', content_type)}, timeout=60
    )
    assert answer.status_code == 200 and server.get("/datastore/image/info?image=ball").json()["a"] == 1


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/segment_input_image/", "file"),
        ("POST", "/segment_input_image/", "sam_input"),
        ("POST", "/infer/sam_tiny?image=ball", "params"),
        ("PUT", "/datastore/label?image=ball", "label"),
    ],
)
def test_of_two_parts_of_one_name_none_is_lost_without_a_word(server, method, path, field):
    parts = [(field, ("a.nii.gz", BALL)), (field, ("b.nii.gz", BALL))]
    answer = requests.request(method, server.url + path, files=parts, timeout=60)
    assert answer.status_code == 422 and f"several parts called '{field}'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"Content-Encoding": "gzip"}, 415, "coded as gzip"),
        ({"Content-Type": "multipart/form-data"}, 400, "boundary"),
        ({"Content-Type": "multipart/form-data; boundary=another"}, 400, "does not begin with the boundary"),
        ({"Content-Type": "application/json"}, 415, "of the type application/json"),
        ({"Content-Type": "image/png"}, 415, "of the type image/png"),
        ({"Content-Type": None}, 415, "of no stated type"),
        ({"cut": 4}, 400, "truncated"),
        ({"cut": 100}, 400, "truncated"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/segment_input_image/", "file"),
        ("POST", "/infer/sam_tiny?image=ball", "file"),
        ("PUT", "/datastore/image?image=new", "file"),
        ("PUT", "/datastore/label?image=ball", "label"),
        ("PUT", "/session/", "files"),
    ],
)
def test_bodies_that_are_not_read_are_named(server, method, path, field, changed, status, said):
    whole = requests.Request(method, server.url + path, files={field: ("a.nii.gz", BALL)}).prepare()
    body = whole.body[: len(whole.body) - changed.get("cut", 0)]
    headers = {"Content-Type": whole.headers["Content-Type"], **changed}
    headers = {name: value for name, value in headers.items() if name != "cut" and value is not None}
    refused = requests.request(method, server.url + path, data=body, headers=headers, timeout=60)
    assert (refused.status_code, said in refused.text) == (status, True), refused.text
    assert "new" not in listed(server)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("window", value) for value in (5, [1], {"center": 40}, "none")),
        *(("candidates", value) for value in ({}, 3)),
        *(("fill_holes", "perhaps"), ("largest_component", []), ("box_from_points", 3)),
        *(("result_extension", 0), ("result_dtype", 8), ("label", {}), ("label_info", "x"), ("client_id", 5)),
        *(("save_label", "perhaps"), ("label_tag", ["a"]), ("slice", "x"), ("roi", "x"), ("prompts", {})),
    ],
)
def test_options_of_a_wrong_type_are_refused_by_their_names(server, option, value):
    params = json.dumps({**PROMPT, option: value})
    refused = server.post("/infer/sam_tiny?image=ball", data={"params": params})
    assert refused.status_code == 422 and option in refused.json()["detail"]


def test_a_window_of_numbers_holds_and_what_is_not_known_is_left_out(server):
    params = {**PROMPT, "window": {"center": 400, "width": 800}, "unknown": [1], "device": 5}
    answer = server.post("/infer/sam_tiny?image=ball&output=json", data={"params": json.dumps(params)})
    assert answer.json()["window"] == {"center": 400.0, "width": 800.0, "source": "request"}

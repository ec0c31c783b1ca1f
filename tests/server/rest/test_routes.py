"""The four REST routes, asked in this process."""

from __future__ import annotations

import io
import json
import time
from urllib.parse import urljoin

import httpx
import numpy as np
import pydicom
import pytest
from fastapi import FastAPI
from PIL import Image

from support.asgi import ask
from support.rest import DISC, dice, png

POST = "/segment_input_image/"


def segment(app: FastAPI, content: bytes | None, sam_input: str | None = DISC, **headers: str) -> httpx.Response:
    files = {} if content is None else {"file": ("image.png", content)}
    data = {} if sam_input is None else {"sam_input": sam_input}
    return ask(app, "POST", POST, files=files, data=data, headers=headers)


@pytest.fixture(scope="module")
def content() -> bytes:
    """A bright disc on a darker ground, as PNG."""
    rows, columns = np.mgrid[:200, :240]
    return png(np.where((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2, 190, 70).astype(np.uint8))


@pytest.fixture(scope="module")
def timestamp(app, content) -> str:
    return f"{segment(app, content).json()['timestamp']:.6f}"


def test_a_segmentation_is_named_by_its_timestamp_and_described_in_headers(app, content):
    done = segment(app, content)
    assert done.status_code == 200 and list(done.json()) == ["timestamp"]
    assert abs(done.json()["timestamp"] - time.time()) < 60
    facts = json.loads(done.headers["sam-result"])
    assert facts["model"] == "sam_tiny" and facts["candidates"] == 1
    assert "total;dur=" in done.headers["server-timing"] and done.headers["x-request-id"]


@pytest.mark.parametrize("view", ["overlay", "contour", "mask", "image"])
def test_each_view_has_the_image_s_own_size(app, timestamp, view):
    shown = ask(app, "GET", f"/get_segmented_image/{timestamp}?view={view}")
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["content-disposition"].startswith("inline; filename=")
    assert Image.open(io.BytesIO(shown.content)).size == (240, 200)


def test_the_mask_of_an_object_is_that_of_the_disc(app, timestamp):
    rows, columns = np.mgrid[:200, :240]
    disc = (columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2
    mask = ask(app, "GET", f"/get_segmented_image/{timestamp}?view=mask&object=1")
    assert dice(np.asarray(Image.open(io.BytesIO(mask.content))) > 0, disc) > 0.9


@pytest.mark.parametrize(("kind", "modality"), [("sc", "OT"), ("seg", "SEG"), ("source", "OT")])
def test_dicom_of_an_image_that_was_none(app, timestamp, kind, modality):
    saved = ask(app, "GET", f"/get_dicom_image/{timestamp}?type={kind}")
    assert saved.headers["content-type"] == "application/dicom"
    assert saved.headers["content-disposition"].startswith("attachment; filename=")
    assert pydicom.dcmread(io.BytesIO(saved.content)).Modality == modality


def test_head_and_a_copy_that_is_still_right_need_no_content(app, timestamp):
    path = f"/get_segmented_image/{timestamp}?view=mask"
    whole, head = ask(app, "GET", path), ask(app, "HEAD", path)
    assert not head.content and head.headers["content-length"] == str(len(whole.content))
    known = ask(app, "GET", path, headers={"If-None-Match": whole.headers["etag"]})
    assert known.status_code == 304 and not known.content


@pytest.mark.parametrize(
    "prefer", ["return=representation", 'wait=5, Return="representation"; x', "return = representation"]
)
def test_the_mask_is_the_answer_if_the_client_prefers_that(app, content, prefer):
    done = segment(app, content, Prefer=prefer)
    assert done.status_code == 200 and done.headers["content-type"] == "image/png"
    assert done.headers["preference-applied"] == "return=representation"
    place = urljoin(f"http://server{POST}", done.headers["content-location"])
    got = ask(app, "GET", place.removeprefix("http://server"))
    assert got.status_code == 200 and got.content == done.content
    assert got.headers["sam-result"] == done.headers["sam-result"]
    assert dice(np.asarray(Image.open(io.BytesIO(done.content))) == 1, _disc()) > 0.9
    timestamp = place.split("/")[-1].removesuffix("?view=mask")
    refined = segment(
        app, None, json.dumps({"refine": timestamp, "negative_points": [{"x": 1, "y": 1}]}), Prefer=prefer
    )
    assert refined.status_code == 200 and refined.headers["content-location"] != done.headers["content-location"]
    assert ask(app, "GET", f"/get_dicom_image/{timestamp}?type=seg").status_code == 200


@pytest.mark.parametrize("prefer", ["return=minimal", "representation", "return=representations", ""])
def test_other_preferences_change_nothing(app, content, prefer):
    done = segment(app, content, Prefer=prefer)
    assert list(done.json()) == ["timestamp"]
    assert not {"content-location", "preference-applied"} & set(done.headers)


def test_what_is_refused_is_refused_whatever_is_preferred(app, content):
    refused = segment(app, content, '{"frame": 9}', Prefer="return=representation")
    assert refused.status_code == 422 and refused.json()["detail"]
    later = segment(app, content, Prefer="return=representation, respond-async")
    assert later.status_code == 202 and later.headers["preference-applied"] == "respond-async"


def _disc() -> np.ndarray:
    rows, columns = np.mgrid[:200, :240]
    return np.asarray((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2)


def test_a_request_is_worked_on_later_if_the_client_prefers_that(app, content):
    accepted = segment(app, content, Prefer="respond-async; foo, wait=5")
    assert accepted.status_code == 202 and accepted.headers["preference-applied"] == "respond-async"
    path = "/" + accepted.headers["location"].removeprefix("../")
    deadline = time.monotonic() + 60
    while (found := ask(app, "GET", path)).status_code == 202 and time.monotonic() < deadline:
        assert int(found.headers["retry-after"]) >= 1
        time.sleep(0.05)
    assert found.status_code == 200 and found.headers["content-type"] == "image/png"


def test_a_result_is_refined_without_its_file(app, timestamp):
    more = json.dumps({"refine": float(timestamp), "negative_points": [{"x": 10, "y": 10}]})
    assert segment(app, None, more).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/get_segmented_image/1.5", 404, "there is no result 1.5"),
        ("/get_dicom_image/1.5", 404, "there is no result 1.5"),
        ("/get_segmented_image/today", 422, "timestamp"),
        ("/get_segmented_image/{}?view=overlay&object=1", 422, "object is for view=mask"),
        ("/get_segmented_image/{}?view=mask&object=7", 404, "object"),
        ("/get_segmented_image/{}?candidate=1", 404, "there is no candidate 1; this result has 1, from 0"),
        ("/get_segmented_image/{}?view=film", 422, "overlay"),
        ("/get_dicom_image/{}?type=pr", 422, "seg"),
    ],
)
def test_what_is_not_there_is_said(app, timestamp, path, status, said):
    refused = ask(app, "GET", path.format(timestamp))
    assert refused.status_code == status and said in json.dumps(refused.json()["detail"])


@pytest.mark.parametrize(
    ("sam_input", "status", "said"),
    [
        ("{", 422, "Invalid JSON"),
        ('{"model": "nope"}', 404, "there is no model 'nope'; the models are: sam_tiny"),
        ('{"positive_points": [{"x": 999, "y": 1}]}', 422, "999"),
        ('{"refine": 1.5}', 404, "there is no result 1.5"),
    ],
)
def test_what_cannot_be_meant_is_said(app, content, sam_input, status, said):
    refused = segment(app, content, sam_input)
    assert refused.status_code == status and said in json.dumps(refused.json()["detail"])


def test_what_is_no_image_or_no_form_is_refused(app):
    assert segment(app, b"no image at all").status_code == 415
    assert "empty" in segment(app, b"").json()["detail"]
    assert segment(app, None).json()["detail"].startswith("there is no image")
    assert ask(app, "POST", POST, json={}).status_code == 415
    assert segment(app, bytes(2**20)).status_code == 413


def test_health_is_told_whatever_the_server_is_doing(app):
    deadline = time.monotonic() + 60
    while ask(app, "GET", "/health_check/").json()["status"] == "loading" and time.monotonic() < deadline:
        time.sleep(0.05)
    health = ask(app, "GET", "/health_check/")
    assert health.status_code == 200 and health.json()["default_model"] == "sam_tiny"
    assert health.json()["models"] == {"sam_tiny": "ready"}
    facts = {"license": "MIT", "research_only": False, "prompts": ["point", "box", "mask"]}
    assert health.json()["model_facts"] == {"sam_tiny": facts}

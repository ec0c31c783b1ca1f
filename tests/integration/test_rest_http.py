"""The GET routes as HTTP: conditional requests, HEAD, names to save under; and requests that are worked on later."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from support.rest import DISC, dice, picture, png
from support.server_process import Server, running_server

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def timestamp(server) -> float:
    sam_input = json.dumps({"positive_points": [{"x": 30, "y": 24}]})
    return server.segment((server.studies / "ball.nii.gz").read_bytes(), sam_input).json()["timestamp"]


PATHS = [
    *(("/get_segmented_image/{}?view=" + view, "image/png") for view in ("overlay", "contour", "mask", "image")),
    *(("/get_dicom_image/{}?type=" + kind, "application/dicom") for kind in ("sc", "seg", "source")),
]


@pytest.mark.parametrize(("path", "media_type"), PATHS)
def test_a_file_is_not_sent_again_to_who_has_it(server, timestamp, path, media_type):
    first = server.get(path.format(timestamp))
    assert first.status_code == 200 and first.headers["content-type"] == media_type
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[^"]+"', etag) and "private" in first.headers["cache-control"]
    for condition in (
        {"If-None-Match": etag},
        {"If-None-Match": f'"other", W/{etag}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": first.headers["last-modified"]},
    ):
        again = server.get(path.format(timestamp), headers=condition)
        assert again.status_code == 304 and not again.content and again.headers["etag"] == etag, condition
    for condition in (
        {"If-None-Match": '"other"'},
        {"If-None-Match": '"other"', "If-Modified-Since": first.headers["last-modified"]},
        {"If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"},
        {"If-Modified-Since": "yesterday"},
    ):
        again = server.get(path.format(timestamp), headers=condition)
        assert again.status_code == 200 and again.content == first.content, condition


def test_every_file_has_a_tag_of_its_own(server, timestamp):
    tags = [server.get(path.format(timestamp)).headers["etag"] for path, _ in PATHS]
    assert len(set(tags)) == len(PATHS)


@pytest.mark.parametrize(("path", "media_type"), PATHS)
def test_head_answers_what_get_would_without_the_content(server, timestamp, path, media_type):
    import requests

    whole = server.get(path.format(timestamp))
    head = requests.head(server.url + path.format(timestamp), timeout=60)
    assert head.status_code == 200 and not head.content
    for name in ("content-type", "content-length", "etag", "last-modified", "content-disposition", "sam-result"):
        assert head.headers[name] == whole.headers[name], name
    assert int(head.headers["content-length"]) == len(whole.content)
    assert requests.head(f"{server.url}/get_segmented_image/1.5", timeout=60).status_code == 404


def test_a_picture_is_shown_and_an_object_is_saved_under_a_name_that_says_what_it_is(server, timestamp):
    picture_name = server.get(f"/get_segmented_image/{timestamp}").headers["content-disposition"]
    assert picture_name == f'inline; filename="segmentation-{timestamp}-overlay.png"'
    object_name = server.get(f"/get_dicom_image/{timestamp}?type=seg").headers["content-disposition"]
    assert object_name == f'attachment; filename="segmentation-{timestamp}-segmentation.dcm"'


def test_the_facts_come_with_every_file(server, timestamp):
    facts = json.loads(server.get(f"/get_segmented_image/{timestamp}").headers["sam-result"])
    assert facts["slice_source"] == "middle" and facts["slice"] == 8 and facts["model"] == "sam_tiny"


def ask_later(server: Server, content: bytes, sam_input: str = DISC):
    return server.segment(content, sam_input, headers={"Prefer": "handling=lenient, Respond-Async; x=1"})


def finished(server: Server, path: str, seconds: float = 60):
    """The answer when it is no longer 202."""
    deadline = time.monotonic() + seconds
    while (answer := server.get(path)).status_code == 202:
        assert answer.json()["status"] == "queued" and int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() < deadline, "it is still not finished"
        time.sleep(0.05)
    return answer


def test_a_request_is_worked_on_later_if_the_client_prefers_that(server, disc):
    image, truth = disc
    answer = ask_later(server, png(image))
    assert answer.status_code == 202 and list(answer.json()) == ["timestamp"]
    assert answer.headers["preference-applied"] == "respond-async" and int(answer.headers["retry-after"]) >= 1
    timestamp = answer.json()["timestamp"]
    assert answer.headers["location"].endswith(f"get_segmented_image/{timestamp}")
    found = picture(finished(server, f"/get_segmented_image/{timestamp}?view=mask"))
    assert dice(found == 1, truth) > 0.85
    at_once = server.segment(png(image), DISC).json()["timestamp"]
    assert (
        server.get(f"/get_segmented_image/{at_once}?view=mask").content
        == server.get(f"/get_segmented_image/{timestamp}?view=mask").content
    )


def test_its_failure_is_what_the_client_would_have_been_answered(server, disc):
    outside = json.dumps({"positive_points": [{"x": 9000, "y": 1}]})
    for content, sam_input in ((b"no image at all", DISC), (png(disc[0]), outside)):
        at_once = server.segment(content, sam_input)
        assert at_once.status_code in (415, 422)
        timestamp = ask_later(server, content, sam_input).json()["timestamp"]
        for path in ("/get_segmented_image/", "/get_dicom_image/"):
            later = finished(server, f"{path}{timestamp}")
            assert (later.status_code, later.json()) == (at_once.status_code, at_once.json())
        refine = server.post("/segment_input_image/", data={"sam_input": json.dumps({"refine": timestamp})})
        assert refine.status_code == 422 and "failed" in refine.json()["detail"]


def test_what_can_be_known_at_once_is_refused_at_once(server, disc):
    assert ask_later(server, png(disc[0]), json.dumps({"model": "nope"})).status_code == 404
    assert ask_later(server, png(disc[0]), "{").status_code == 422


def test_a_full_queue_answers_429_and_a_waiting_result_cannot_be_refined_yet(tmp_path, disc):
    with running_server(tmp_path / "one", "max_queue", "2") as server:
        content = png(disc[0])
        places = [(x, y) for x in range(0, 224, 28) for y in range(0, 180, 18)]
        boxes = [{"startX": x, "startY": y, "width": 12, "height": 11} for x, y in places]
        takes_seconds = json.dumps({"rectangles": boxes, "multimask": True})
        accepted = [ask_later(server, content, takes_seconds) for _ in range(3)]
        assert [answer.status_code for answer in accepted] == [202, 202, 429]
        assert int(accepted[2].headers["retry-after"]) >= 1
        assert server.segment(content, DISC).status_code == 429
        infer = server.post("/infer/sam_tiny", files={"file": ("x.png", content)}, data={"params": "{}"})
        assert infer.status_code == 429
        queue = server.get("/health_check/").json()["queue"]
        assert queue == {"running": 2, "limit": 2}
        last = accepted[1].json()["timestamp"]
        refine = server.post("/segment_input_image/", data={"sam_input": json.dumps({"refine": last})})
        assert refine.status_code == 429 or (refine.status_code == 409 and "not finished" in refine.json()["detail"])
        for answer in accepted[:2]:
            assert finished(server, f"/get_segmented_image/{answer.json()['timestamp']}").status_code == 200
        assert server.get("/health_check/").json()["queue"]["running"] == 0


@pytest.fixture(scope="module")
def limited(tmp_path_factory) -> Iterator[Server]:
    """A server with limits of its operator."""
    folder = tmp_path_factory.mktemp("limited")
    with running_server(folder, "max_seconds", "2", "max_frames", "15", "max_prompts", "3") as running:
        yield running


def test_work_that_takes_too_long_is_given_up(limited, disc):
    large = png(disc[0].repeat(8, axis=0).repeat(8, axis=1))
    answer = limited.segment(large, json.dumps({}))
    assert answer.status_code == 503 and "after 2 s" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    later = finished(limited, f"/get_segmented_image/{ask_later(limited, large, json.dumps({})).json()['timestamp']}")
    assert later.status_code == 503
    assert limited.segment(png(disc[0]), DISC).status_code == 200


@pytest.mark.parametrize(
    ("image", "prompts", "status", "words"),
    [("ball.nii.gz", 1, 413, "frames"), ("disc.png", 4, 422, "at most 3")],
)
def test_limits_are_the_operators(server, limited, image, prompts, status, words):
    content = (server.studies / image).read_bytes()
    sam_input = {"positive_points": [{"x": 30 + n, "y": 24} for n in range(prompts)]}
    answer = limited.segment(content, json.dumps(sam_input))
    assert answer.status_code == status and words in answer.json()["detail"]
    assert not list(limited.results.glob("[0-9.]*.part"))

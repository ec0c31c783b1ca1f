"""What the DICOMweb server gets to see of a viewer's request, and what a viewer gets of a server that misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from support.dicomweb_stand_in import Answer, StandIn, running_stand_in
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

DICOM_JSON = "application/dicom+json"


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[Server, StandIn]]:
    folder = tmp_path_factory.mktemp("proxy")
    variables = {
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        "MONAI_LABEL_DICOMWEB_USERNAME": "server",
        "MONAI_LABEL_DICOMWEB_PASSWORD": "its own",
        "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT": "5",
    }
    with (
        running_stand_in() as stand_in,
        running_server(folder, studies=stand_in.url, variables=variables) as server,
    ):
        yield server, stand_in


@pytest.fixture
def server(running) -> Server:
    return running[0]


@pytest.fixture
def stand_in(running) -> Iterator[StandIn]:
    stand_in = running[1]
    stand_in.requests.clear()
    stand_in.released.clear()
    yield stand_in
    stand_in.released.set()
    stand_in.answer = lambda path: Answer()


def test_query_and_accept_go_on_and_nothing_that_is_private(server, stand_in):
    sent = {
        **{"Accept": DICOM_JSON, "Cookie": "SAM-Client=secret", "Authorization": "Bearer secret"},
        **{"X-Api-Key": "secret", "Referer": "http://viewer/?patient=secret", "Origin": "http://localhost"},
    }
    answer = server.get("/proxy/dicom/qido/studies?PatientName=A%5EB&limit=5", headers=sent)
    assert answer.status_code == 200 and answer.headers["Content-Type"] == DICOM_JSON
    ((method, path, headers),) = stand_in.requests
    assert (method, path) == ("GET", "/dicom-web/studies?PatientName=A%5EB&limit=5")
    assert headers["accept"] == DICOM_JSON
    assert headers["authorization"].startswith("Basic ")
    assert "secret" not in str(headers)


def test_a_body_goes_on_as_it_is(server, stand_in):
    content_type = 'multipart/related; type="application/dicom"; boundary=x'
    body = b"--x\r\n\r\n\x00\x01--x--"
    assert server.post("/proxy/dicom/stow/studies", data=body, headers={"Content-Type": content_type}).ok
    ((method, path, headers),) = stand_in.requests
    assert (method, path, headers["content-type"]) == ("POST", "/dicom-web/studies", content_type)
    assert int(headers["content-length"]) == len(body)


def test_the_first_bytes_come_before_the_last_are_there(server, stand_in):
    stand_in.answer = lambda path: Answer(body=[(0, b"first"), (10, b"last")])
    begun = time.monotonic()
    with requests.get(server.url + "/proxy/dicom/wado/studies/1.2", stream=True, timeout=30) as answer:
        pieces = answer.iter_content(None)
        assert next(pieces) == b"first"
        assert time.monotonic() - begun < 5
        stand_in.released.set()
        assert b"".join(pieces) == b"last"


def test_others_are_answered_while_the_archive_thinks(server, stand_in):
    def slowly(path: str) -> Answer:
        stand_in.released.wait(4)
        return Answer()

    stand_in.answer = slowly
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.get, "/proxy/dicom/qido/studies")
        while not stand_in.requests:
            time.sleep(0.05)
        begun = time.monotonic()
        assert server.get("/health_check/").status_code == 200
        assert time.monotonic() - begun < 3
        stand_in.released.set()
        assert waiting.result().status_code == 200


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {}, 404),
        (406, {}, 406),
        (500, {}, 502),
        (401, {"WWW-Authenticate": 'Basic realm="PACS"'}, 502),
        (302, {"Location": "http://127.0.0.1:9/elsewhere"}, 502),
    ],
)
def test_an_error_is_told_without_the_archive_s_own_words(server, stand_in, status, headers, expected):
    stand_in.answer = lambda path: Answer(status, [(0, b"secrets of the archive")], headers)
    answer = server.get("/proxy/dicom/wado/studies/1.2")
    assert answer.status_code == expected, answer.text
    assert "the DICOMweb server" in answer.json()["detail"] and "secrets" not in answer.text
    assert not {"WWW-Authenticate", "Location"} & set(answer.headers)
    assert stand_in.url not in answer.text


def test_an_archive_that_does_not_answer_is_not_waited_for(server, stand_in):
    stand_in.answer = lambda path: (stand_in.released.wait(20), Answer())[1]
    begun = time.monotonic()
    answers = [server.get("/proxy/dicom/qido/studies"), server.get("/info/")]
    assert time.monotonic() - begun < 18
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the DICOMweb server did not respond in time"

"""A DICOMweb archive that returns garbage is the archive's fault (502), said in a few words, and never the server's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from support.attacks import IMAGE
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in
from support.server_process import Server, running_server
from support.small_archive import JSON, QUOTED, SmallArchive

pytestmark = pytest.mark.server

HTML = b"<html><body>Please log in</body></html>"
SEARCHES: dict[str, tuple[bytes, dict[str, str]]] = {
    "a page": (HTML, {"Content-Type": "text/html"}),
    "a page that is called JSON": (HTML, JSON),
    "nothing": (b"", JSON),
    "half of it": (b'[{"0020000D": {"vr": "UI", "Va', JSON),
    "noise": (bytes(range(256)) * 20, JSON),
    "an object": (b'{"error": "none"}', JSON),
    "numbers": (b"[1, 2, 3]", JSON),
    "a very deep list": (b"[" * 100_000, JSON),
    "texts for attributes": (b'[{"0020000D": "1.2.3", "0020000E": "1.2.4"}]', JSON),
    "other types of values": (
        b'[{"0020000D": {"vr": "UI", "Value": [{"a": 1}]}, "0020000E": {"vr": "UI", "Value": [[]]}}]',
        JSON,
    ),
    "noise that is called gzip": (b"\x1f\x8b" + bytes(100), {**JSON, "Content-Encoding": "gzip"}),
}
PART = b"--=_x\r\nContent-Type: application/dicom\r\n\r\n"
SERIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "a page": (HTML, {"Content-Type": "text/html"}),
    "nothing": (b"", {"Content-Type": QUOTED}),
    "noise": (bytes(range(256)) * 20, {"Content-Type": QUOTED}),
    "parts of noise": (PART + bytes(range(256)) + b"\r\n--=_x--\r\n", {"Content-Type": QUOTED}),
    "an empty part": (PART + b"\r\n--=_x--\r\n", {"Content-Type": QUOTED}),
    "DICOM without anything in it": (PART + bytes(128) + b"DICM\r\n--=_x--\r\n", {"Content-Type": QUOTED}),
    "no boundary": (b"--=_x--\r\n", {"Content-Type": "multipart/related"}),
    "noise that is called gzip": (gzip.compress(HTML)[:30], {"Content-Type": QUOTED, "Content-Encoding": "gzip"}),
}


@dataclass
class Archived:
    server: Server
    stand_in: StandIn
    series: str

    def uses(self) -> dict[str, requests.Response]:
        """What clients ask for that needs the archive."""
        click = {"params": json.dumps({"foreground": [[20, 20, 1]], "result_extension": ".nii.gz"})}
        image, url = self.series, self.server.url
        label = {"label": ("l.nii.gz", IMAGE)}
        return {
            "clicks": self.server.post(f"/infer/sam_tiny?image={image}&output=image", data=click),
            "asks for DICOM SEG": self.server.post(f"/infer/sam_tiny?image={image}&output=dicom_seg", data=click),
            "downloads": self.server.get(f"/datastore/image?image={image}"),
            "asks for the label": self.server.get(f"/datastore/label?label={image}&tag=final"),
            "labels": requests.put(f"{url}/datastore/label?image={image}&tag=final", files=label, timeout=60),
        }


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[Server, StandIn]]:
    folder = tmp_path_factory.mktemp("garbage")
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "0"}
    with (
        running_stand_in() as stand_in,
        running_server(folder, studies=stand_in.url, variables=variables) as server,
    ):
        yield server, stand_in


@pytest.fixture
def archived(running) -> Iterator[Archived]:
    """A series that the server has not seen yet."""
    server, stand_in = running
    held = SmallArchive().serve(stand_in)
    held.arrive(0, 1, 2)
    before = len(server.log.read_bytes())
    yield Archived(server, stand_in, held.uid)
    assert b"A request failed" not in server.log.read_bytes()[before:]


def check(answers: dict[str, requests.Response]) -> None:
    for use, answer in answers.items():
        assert answer.status_code in (404, 502), (use, answer.status_code, answer.text[:300])
        detail = answer.json()["detail"]
        assert answer.status_code == 404 or "DICOMweb server" in detail, (use, detail)
        assert "127.0.0.1" not in detail and "log in" not in detail, (use, detail)


@pytest.mark.parametrize("what", SEARCHES)
def test_a_search_that_finds_garbage(archived, what):
    content, headers = SEARCHES[what]
    archived.stand_in.answer = lambda path: Answer(body=[(0, content)], headers=headers)
    answers = archived.uses()
    check(answers)
    assert answers["clicks"].status_code == (404 if what == "nothing" else 502), answers["clicks"].text
    listed = archived.server.get("/datastore/")
    assert listed.status_code in (200, 502), listed.text


@pytest.mark.parametrize("what", SERIES)
def test_a_series_of_garbage(archived, what):
    content, headers = SERIES[what]
    truly = archived.stand_in.answer
    is_series = lambda path: path.endswith(f"/series/{archived.series}") or "/instances/" in path  # noqa: E731
    archived.stand_in.answer = lambda path: (
        Answer(body=[(0, content)], headers=headers) if is_series(path) else truly(path)
    )
    answers = archived.uses()
    check(answers)
    assert answers["clicks"].status_code == 502, answers["clicks"].text
    archived.stand_in.answer = truly
    assert {answer.status_code for answer in archived.uses().values()} <= {200, 404, 422}, "it is well again"

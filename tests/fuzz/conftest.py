"""One real server that is fed hostile input, and what must still be true of it after each test."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import psutil
import pytest
import requests

from support.hostile import seeds
from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import Server, running_server

SECONDS = 30
DOCUMENTED = {503, 507}
"""The only answers of 500 and above that the routes document as no fault of the server's program."""
QUIET = {"automatic": False}
"""Nothing is looked for without prompts, so that most of the time goes into reading."""

KEPT_FOR_EACH, KEPT_AT_MOST = 7 * 2**19, 14 * 2**30 // 10
"""Bytes that an image's embedding takes, with what the allocator adds, and the whole cache of them (1 GiB)."""


@dataclass
class Target:
    """The server under fire."""

    server: Server
    folder: Path
    session: requests.Session = field(default_factory=requests.Session)
    segmented: int = 0

    def post(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        """A raw body to the segmentation route, its answer checked."""
        url = self.server.url + "/segment_input_image/"
        response = self.session.post(url, data=body, headers=headers, timeout=SECONDS)
        return self.checked(response)

    def segment(
        self, content: bytes, sam_input: bytes | None = None, name: bytes = b"image", *, prefer: str | None = None
    ) -> requests.Response:
        """An upload; what was accepted is fetched, too. Nothing of what is sent is quoted or escaped."""
        parts = [(b'name="file"; filename="' + name + b'"', content)]
        if sam_input is not None:
            parts.append((b'name="sam_input"', sam_input))
        boundary = b"4a8e2f61c05b"
        body = b"".join(
            b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"
            for head, value in parts
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
        if prefer:
            headers["Prefer"] = prefer
        response = self.post(body + b"--" + boundary + b"--\r\n", headers)
        if response.status_code in (200, 202):
            self._fetch(response.json()["timestamp"])
        return response

    def _fetch(self, timestamp: float) -> None:
        """Every answer about a result is sound, and all of them agree on whether it is there."""
        deadline = time.monotonic() + SECONDS
        while (mask := self.get(f"/get_segmented_image/{timestamp}?view=mask")).status_code == 202:
            assert time.monotonic() < deadline, "the accepted request was not finished in time"
            time.sleep(0.05)
        seg = self.get(f"/get_dicom_image/{timestamp}?type=seg")
        assert seg.status_code == mask.status_code
        if mask.status_code == 200:
            self.segmented += 1
            assert mask.content.startswith(b"\x89PNG") and seg.content[128:132] == b"DICM"

    def get(self, path: str) -> requests.Response:
        return self.checked(self.session.get(self.server.url + path, timeout=SECONDS))

    def raw(self, method: str, target: str) -> tuple[int, bytes]:
        """A request whose target goes out as it is, which a well-behaved client would tidy up."""
        address = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=SECONDS)
        try:
            connection.putrequest(method, target, skip_host=False)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status < 500 or answer.status in DOCUMENTED, (answer.status, body[:500])
        self._gives_nothing_away(body)
        return answer.status, body

    def checked(self, response: requests.Response) -> requests.Response:
        """No failure of the program, and none of its insides."""
        status = response.status_code
        assert status < 500 or status in DOCUMENTED, (status, response.text[:500])
        if status >= 400:
            assert response.json()["detail"]
        self._gives_nothing_away(response.content)
        return response

    def _gives_nothing_away(self, content: bytes) -> None:
        for secret in (b"Traceback", str(self.folder).encode(), b"site-packages"):
            assert secret not in content

    def files(self) -> set[str]:
        """All files and folders but those in which the server keeps its work, by their place below its own folder."""
        found = {path.relative_to(self.folder) for path in self.folder.rglob("*")}
        return {str(path) for path in found if path.parts[0] not in ("results", "embeddings")}


@pytest.fixture(scope="session")
def originals(sample: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A valid file of every kind."""
    return seeds(sample, tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, bytes]) -> Iterator[Target]:
    """A server with small limits, warmed up with each valid file."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "studies").mkdir()
    (folder / "tmp").mkdir()
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(folder / "studies" / "ball.nii.gz")
    limits = ("max_pixels", "4000000", "max_upload_mb", "8", "max_frames", "64", "max_seconds", "20")
    with running_server(folder, *limits, variables={"TMPDIR": str(folder / "tmp")}) as server:
        attacked = Target(server, folder)
        for name, content in originals.items():
            assert attacked.segment(content, json.dumps(QUIET).encode()).status_code == 200, name
        yield attacked


@pytest.fixture(autouse=True)
def unharmed(target: Target) -> Iterator[None]:
    """After each test the server lives, has logged no traceback, and has kept no file, memory or descriptor."""
    process = psutil.Process(target.server.process.pid)
    log, files = target.server.log.stat().st_size, target.files()
    memory, descriptors = process.memory_info().rss, process.num_fds()
    segmented = target.segmented
    yield
    assert target.server.process.poll() is None, "the server ended"
    assert target.get("/health_check/").status_code == 200
    with target.server.log.open("rb") as file:
        file.seek(log)
        assert b"Traceback" not in file.read()
    assert target.files() == files
    assert all(path.name == ".lock" or path.name[0].isdigit() for path in target.server.results.iterdir())
    _all_are_embeddings(target.folder / "embeddings")
    assert process.num_fds() <= descriptors + 8
    kept = min(KEPT_FOR_EACH * (target.segmented - segmented), KEPT_AT_MOST)
    assert process.memory_info().rss <= memory + kept + 256 * 2**20


def _all_are_embeddings(folder: Path) -> None:
    """Nothing else lies there, but for the one that is being written."""
    for path in folder.glob("*"):
        assert path.suffix in (".embedding", ".part"), path.name

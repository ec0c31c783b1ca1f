"""Odd values at every place that a route reads: done or refused, and everything can be read as before."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
import requests
from pydicom.data import get_testdata_file

from support.odd_requests import Call, OddRequests
from support.phantoms import BALL_AFFINE, ball_volume
from support.readings import Found, raw, readings
from support.rest import png
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

SEED = 20
DOCUMENTED = {503, 507}
SWEEP_EVERY = 100
ALWAYS = ("/datastore/", "/datastore/?output=all", "/info/", "/health_check/", "/metrics")
WRITING = {
    *("PUT datastore", "PUT session", "POST infer", "POST batch", "POST segment_input_image", "POST activelearning"),
}
"""Of each of these some requests are done: what is drawn is not so odd that nothing gets far."""

LONGEST_REFUSAL = 8000
"""Bytes."""

KEPT = 3
"""Results and sessions that a sweep reads."""


@pytest.fixture
def unharmed() -> None:
    """The server here is one of its own, which may keep what it is sent."""


def nifti(voxels: np.ndarray) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(voxels, BALL_AFFINE).to_bytes(), mtime=0)


class Visitor:
    """Sends requests one after the other and remembers what they made."""

    def __init__(self, server: Server) -> None:
        self._server, self._session = server, requests.Session()
        self.found = Found()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.swept: Counter[int] = Counter()

    def send(self, call: Call) -> None:
        try:
            answer = call.send(self._session, self._server.url)
        except requests.exceptions.InvalidHeader:
            return
        except requests.ConnectionError as error:
            raise AssertionError(f"no answer to {call}: {error}") from error
        self._check(answer, str(call))
        route = call.path.partition("?")[0].split("/")[1]
        self.statuses[f"{call.method} {route}", answer.status_code] += 1
        is_json = answer.headers.get("content-type") == "application/json"
        if answer.status_code == 200 and call.path.startswith("/segment") and is_json:
            self.found.results = [*self.found.results, answer.json()["timestamp"]][-KEPT:]
        if answer.status_code == 200 and (call.method, route) == ("PUT", "session"):
            self.found.sessions = [*self.found.sessions, answer.json()["session_id"]][-KEPT:]

    def look(self) -> None:
        self.found.look(self._server.get("/datastore/?output=all").json())

    def sweep(self) -> None:
        """Read all that there is by all routes."""
        openapi = self._server.get("/openapi.json").json()
        self.look()
        viewed = [("/images/{}", image) for image in self.found.images]
        viewed += [("/session/{}/view", session) for session in self.found.sessions]
        for route, name in viewed:
            facts = self._server.get(route.format(quote(raw(name), safe="")))
            if facts.status_code == 200:
                self.found.versions[name] = facts.json()["version"]
        for method, path in readings(openapi, self.found):
            answer = self._session.request(method, self._server.url + path, timeout=60)
            self._check(answer, f"{method} {path}")
            self.swept[answer.status_code] += 1
            if path in ALWAYS or (
                path.startswith(("/datastore/image", "/datastore/label")) and "check_sum" not in path
            ):
                assert answer.status_code == 200, (method, path, answer.text[:300])

    def _check(self, answer: requests.Response, what: str) -> None:
        """No fault of the program; what was wrong is said in a few words, and nothing of the server's insides."""
        status = answer.status_code
        assert status < 500 or status in DOCUMENTED, f"{status} {answer.text[:500]}: {what}"
        if status >= 400 and answer.request.method != "HEAD":
            assert answer.json()["detail"], what
            assert len(answer.content) <= LONGEST_REFUSAL, f"{status} {answer.text[:500]}: {what}"
        for secret in (b"Traceback", b"site-packages", bytes(self._server.log.parent)):
            assert secret not in answer.content, f"{answer.text[:500]}: {what}"


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(300, id="some"),
        pytest.param(5000, id="many", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_odd_values(tmp_path: Path, count: int) -> None:
    values, mask = ball_volume()
    image, label = nifti(values), nifti(mask.astype(np.uint8))
    (tmp_path / "studies").mkdir()
    for name in "abc":
        (tmp_path / "studies" / f"{name}.nii.gz").write_bytes(image)
    dicom = Path(str(get_testdata_file("MR_small.dcm", download=False))).read_bytes()
    (tmp_path / "studies" / "d.dcm").write_bytes(dicom)
    picture = png(np.random.default_rng(1).integers(0, 200, (48, 64), np.uint8))
    with running_server(tmp_path, "max_seconds", "60") as server:
        visitor = Visitor(server)
        visitor.look()
        drawn = OddRequests(SEED, image=image, label=label, picture=picture, found=visitor.found)
        for number in range(count):
            visitor.send(drawn.next())
            if number % 10 == 9:
                visitor.look()
            if (number + 1) % SWEEP_EVERY == 0:
                visitor.sweep()
                assert server.process.poll() is None, "the server ended"
        log = server.log.read_text(errors="replace")
    print(json.dumps({f"{route} {status}": number for (route, status), number in sorted(visitor.statuses.items())}))
    print(f"swept {dict(visitor.swept)}; left {len(visitor.found.images)} images, {len(visitor.found.labels)} labels")
    for fault in ("Traceback", "A request failed"):
        assert fault not in log, log[max(0, log.index(fault) - 3000) :][:6000]
    assert visitor.found.versions, "no slice was looked at"
    done = {route for route, status in visitor.statuses if status == 200}
    assert done >= WRITING, WRITING - done

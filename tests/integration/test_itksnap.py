"""ITK-SNAP's protocol at a real server: its requests in its order, in both versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.observe.audit import unknown_users_file
from support.itksnap import form, mask_in
from support.phantoms import BALL_CENTRE, ball_volume
from support.rest import dice
from support.server_process import Server, free_port, running_server

pytestmark = pytest.mark.server

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "itksnap.md"
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
VOLUME, TRUTH = (array.transpose(2, 1, 0) for array in ball_volume())
SHAPE = VOLUME.shape
X, Y, Z = BALL_CENTRE
SPACING = (1.5, 1.5, 3.0)
AT_LEAST = 0.8


class Served:
    """The server, ITK-SNAP's port, and a user's key."""

    def __init__(self, server: Server, port: int, key: str) -> None:
        self.server, self.port, self.key = server, port, key

    @property
    def url(self) -> str:
        """As libcurl gets it of a user who enters ``one:KEY@127.0.0.1`` as the host."""
        return f"http://one:{self.key}@127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("itksnap")
    (folder / "studies").mkdir()
    key, entry = make_key("one", ["user"], None)
    KeyFile(folder / "keys.json").add(entry)
    port = free_port()
    conf = ("models", "sam_tiny", "api_keys", str(folder / "keys.json"), "itksnap_port", str(port))
    with running_server(folder, *conf) as server:
        yield Served(server, port, key)


class ItkSnap:
    """One user's ITK-SNAP, which takes any status but 200 for an error."""

    def __init__(self, served: Served, version: int, model: str = "sam_tiny_3d", shape: tuple[int, ...] = SHAPE):
        self.url, self.version, self.shape = served.url, version, shape
        prefix = "" if version == 1 else "/v2"
        self.prefix = prefix
        start = "/start_session" if version == 1 else f"/v2/start_session/{model}"
        self.session = self.get(start)["session_id"]

    def get(self, path: str, **query: Any) -> Any:
        return self._read(requests.get(self.url + path, params=query, timeout=120))

    def post(self, path: str, files: dict[str, Any], **query: Any) -> Any:
        return self._read(requests.post(self.url + path, params=query, files=files, timeout=120))

    @staticmethod
    def _read(answer: requests.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, image: np.ndarray) -> None:
        self.post(f"/upload_raw/{self.session}", form(image, SPACING), filename="upload.nii.gz")

    def point(self, place: tuple[int, ...], foreground: bool = True) -> np.ndarray:
        query: dict[str, Any] = dict(zip("xyz", place, strict=True)) if self.version == 1 else {"point": place}
        path = f"{self.prefix}/process_point_interaction/{self.session}"
        return mask_in(self.get(path, foreground=str(foreground).lower(), **query), self.shape)

    def draw(self, kind: str, drawn: np.ndarray, foreground: bool = True) -> np.ndarray:
        path = f"/process_{kind}_interaction/{self.session}"
        return mask_in(self.post(path, form(drawn, SPACING), foreground=str(foreground).lower()), self.shape)

    def reset(self) -> None:
        assert self.get(f"{self.prefix}/reset_interactions/{self.session}") == {"status": "success"}

    def end(self) -> None:
        self.get(f"{self.prefix}/end_session/{self.session}")


def stroke() -> np.ndarray:
    """A brush stroke through the ball's middle, two voxels wide, on two slices."""
    drawn = np.zeros(SHAPE)
    drawn[Z : Z + 2, Y : Y + 2, X - 6 : X + 7] = 1
    return drawn


@pytest.mark.parametrize("version", [1, 2])
def test_the_brush(served, version):
    snap = ItkSnap(served, version)
    assert snap.get("/status")["status"] == "ok"
    snap.upload(VOLUME)
    assert not snap.point((2, 2, Z), foreground=False).any()
    assert dice(snap.point((X, Y, Z)), TRUTH) > AT_LEAST
    snap.reset()
    assert not snap.draw("scribble", np.zeros(SHAPE)).any()
    found = snap.draw("scribble", stroke())
    assert dice(found, TRUTH) > AT_LEAST
    assert np.array_equal(snap.draw("scribble", np.zeros(SHAPE)), found), "an empty drawing changes nothing"
    snap.reset()
    assert np.array_equal(snap.draw("scribble", stroke()), found), "a reset leaves nothing behind"
    snap.end()
    gone = requests.get(f"{served.url}/process_point_interaction/{snap.session}?x=1&y=1&z=1", timeout=60)
    assert gone.status_code == 404 and "choose the server again" in gone.json()["detail"]


def test_the_polygon_tool_asks_for_a_model_of_a_fixed_name(served):
    listed = requests.get(f"{served.url}/v2/models", timeout=60).json()["models"]
    assert [model["id"] for model in listed] == ["sam_tiny_3d", "sam_tiny", "nnInteractive"]
    assert all(set(model) == {"id", "dimensions", "channels", "interactions"} for model in listed)
    assert [model["dimensions"] for model in listed] == [3, 2, 3] and "lasso" in listed[-1]["interactions"]
    snap = ItkSnap(served, 2, "nnInteractive")
    snap.upload(VOLUME)
    polygon = np.zeros(SHAPE)
    polygon[Z] = TRUTH[Z]
    found = snap.draw("lasso", polygon)
    assert dice(found, TRUTH) > AT_LEAST
    beside = np.zeros(SHAPE)
    beside[Z, :, :X] = TRUTH[Z, :, :X]
    assert not (snap.draw("lasso", beside, foreground=False) & (beside > 0)).any()
    snap.end()


def test_a_slice_for_a_model_of_one_slice(served):
    snap = ItkSnap(served, 2, "sam_tiny", SHAPE[1:])
    snap.upload(VOLUME[Z])
    assert dice(snap.point((X, Y)), TRUTH[Z]) > AT_LEAST
    corrected = snap.point((2, 2), foreground=False)
    assert dice(corrected, TRUTH[Z]) > AT_LEAST and not corrected[2, 2]
    snap.reset()
    assert dice(snap.draw("scribble", stroke()[Z]), TRUTH[Z]) > AT_LEAST
    snap.upload(VOLUME[Z + 1])
    assert dice(snap.draw("lasso", TRUTH[Z + 1].astype(float)), TRUTH[Z + 1]) > AT_LEAST
    snap.end()


@NEEDS_CURL
def test_the_example_in_the_documents(served, tmp_path):
    *_, code = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert "http://127.0.0.1:8911" in code
    code = code.replace("http://127.0.0.1:8911", served.url)
    variables = {**os.environ, "NO_PROXY": "*"}
    subprocess.run(["bash", "-ec", code], cwd=tmp_path, env=variables, check=True, timeout=120)
    z, y, x = np.ogrid[:16, :48, :64]
    truth = (x - 30) ** 2 + (y - 24) ** 2 + (z - 8) ** 2 * 4 < 120
    assert dice(mask_in(json.loads((tmp_path / "answer.json").read_text()), truth.shape), truth) > AT_LEAST


@NEEDS_CURL
def test_libcurl_sends_a_key_that_is_entered_with_the_host(served):
    for url, status in ((served.url, "200"), (served.url.replace(f"one:{served.key}@", ""), "401")):
        asked = ["curl", "-s", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v2/models"]
        assert subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout == status


def test_its_port_has_nothing_else_and_the_server_s_has_it_below_a_prefix(served):
    for path in ("/info/", "/sam/", "/itksnap/status", "/nninteractive/healthz", "/metrics"):
        assert requests.get(served.url + path, timeout=60).status_code == 404, path
    assert served.server.get("/itksnap/status").json()["version"] == "0.1.6"
    assert served.server.get("/status").status_code in (401, 404)
    login = {"Authorization": f"Bearer {served.key}"}
    assert "sam_itksnap_sessions" in served.server.get("/metrics", headers=login).text


def test_the_audit_log_knows_no_session_and_nothing_left_the_machine(served):
    snap = ItkSnap(served, 2)
    snap.upload(VOLUME)
    snap.get("/status")
    snap.point((X, Y, Z))
    snap.end()
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + 5
    while not (lines and "/end_session/" in lines[-1]["route"]) and time.monotonic() < deadline:
        lines = [json.loads(line) for line in served.server.audit.read_text().splitlines()]
    routes = [line["route"] for line in lines[-4:]]
    assert routes == [
        "/itksnap/v2/start_session/{model}",
        "/itksnap/upload_raw/{session}",
        "/itksnap/v2/process_point_interaction/{session}",
        "/itksnap/v2/end_session/{session}",
    ]
    assert {line["user"] for line in lines[-4:]} == {"key:one"}
    marked = lines[-2]
    assert marked["model"] == "sam_tiny" and len(marked["image_sha256"]) == 64 and sum(marked["prompts"].values()) == 1
    others = unknown_users_file(served.server.audit)
    assert not others.exists() or "/itksnap/status" not in others.read_text()
    log = served.server.log.read_text(errors="replace")
    assert snap.session not in log + served.server.audit.read_text()
    assert "OUTBOUND REFUSED" not in log and "Traceback" not in log

"""nnInteractive's protocol at a real server, by the client that 3D Slicer's and napari's plugins use."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.observe.audit import unknown_users_file
from support.rest import dice
from support.server_process import Server, running_server

pytestmark = pytest.mark.server

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "nninteractive.md"
SHAPE = (20, 64, 80)
SPACING = [3.0, 1.0, 1.0]
CENTRE = [9, 30, 44]
AT_LEAST = 0.8
MAX_SESSIONS = 8


class Served:
    """The server, the keys of its users, and what of it was loaded before anybody sent an array."""

    def __init__(self, server: Server, keys: dict[str, str]) -> None:
        self.server, self.keys = server, keys
        self.loaded_at_start = self.libraries()

    def libraries(self) -> str:
        return Path(f"/proc/{self.server.process.pid}/maps").read_text()

    def url(self, model: str = "") -> str:
        return f"{self.server.url}/nninteractive{model}"


Connect = Callable[..., nnInteractiveRemoteInferenceSession]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("nninteractive")
    (folder / "studies").mkdir()
    keys = {}
    for name in ("one", "two"):
        keys[name], entry = make_key(name, ["user"], None)
        KeyFile(folder / "keys.json").add(entry)
    conf = ("models", "sam_tiny", "api_keys", str(folder / "keys.json"), "nninteractive_sessions", str(MAX_SESSIONS))
    with running_server(folder, *conf) as server:
        yield Served(server, keys)


@pytest.fixture
def connect(served) -> Iterator[Connect]:
    """Connects as a plugin does; closed at the end."""
    with ExitStack() as stack:

        def make(user: str = "one", model: str = "") -> nnInteractiveRemoteInferenceSession:
            session = nnInteractiveRemoteInferenceSession(served.url(model), api_key=served.keys[user])
            stack.callback(session.close)
            return session

        yield make


def ball() -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in little noise, ``(1, n0, n1, n2)`` int16, and its bool mask ``(n0, n1, n2)``."""
    grid = np.ogrid[tuple(slice(0, size) for size in SHAPE)]
    mask = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, CENTRE, SPACING, strict=True)) <= 18**2
    noise = np.random.default_rng(3).normal(100, 5, SHAPE)
    return (noise + 110 * mask).astype(np.int16)[None], mask


IMAGE, TRUTH = ball()


def refused(error: type[Exception], url: str, key: str | None) -> Any:
    """Why a client cannot connect; its connection is closed, which it does not do itself."""
    client = nnInteractiveRemoteInferenceSession
    session = client.__new__(client)
    with pytest.raises(error) as raised:
        client.__init__(session, url, api_key=key)
    session._http.close()
    return raised.value


def load(session: nnInteractiveRemoteInferenceSession, dtype: type = np.uint8) -> np.ndarray:
    """Send the image, and return the array for its mask."""
    session.set_do_autozoom(True)
    session.set_image(IMAGE, {"spacing": SPACING})
    assert session.original_image_shape == IMAGE.shape
    array = np.zeros(SHAPE, dtype=dtype)
    session.set_target_buffer(array)
    session.reset_interactions()
    return array


def disc_on(axis: int) -> tuple[np.ndarray, list[list[int]]]:
    """The ball on its central slice along an axis as a tight crop, and its half-open box."""
    where = np.zeros(SHAPE, bool)
    place: list[int | slice] = [slice(None)] * 3
    place[axis] = CENTRE[axis]
    where[tuple(place)] = TRUTH[tuple(place)]
    taken = np.argwhere(where)
    box = [[int(low), int(high) + 1] for low, high in zip(taken.min(axis=0), taken.max(axis=0), strict=True)]
    return where[tuple(slice(*bounds) for bounds in box)].astype(np.uint8), box


def test_nothing_is_loaded_for_it_before_somebody_sends_an_array(served, connect):
    assert "/blosc2/" not in served.loaded_at_start
    load(connect())
    assert "/blosc2/" in served.libraries()


def test_as_3d_slicer_does_it(connect):
    session = connect()
    assert session.ping() and session.license.startswith("MIT (sam_tiny on SAM app")
    array = load(session)
    given = TRUTH.copy()
    given[: CENTRE[0] - 3] = False
    assert session.add_initial_seg_interaction(given.astype(np.uint8)) is None
    assert np.array_equal(array.astype(bool), given)
    session.add_point_interaction(CENTRE, True)
    assert dice(array > 0, TRUTH) > AT_LEAST
    assert session.undo() and np.array_equal(array.astype(bool), given)
    session.reset_interactions()
    assert session.undo() is False
    box = session.add_point_interaction(CENTRE, True)
    assert dice(array > 0, TRUTH) > AT_LEAST and set(np.unique(array)) == {0, 1}
    assert box is not None and array[tuple(slice(*bounds) for bounds in box)].sum() == array.sum()


def test_as_napari_does_it_without_auto_run(connect):
    session = connect(model="/sam_tiny")
    array = load(session, np.int32)
    k = float(CENTRE[0])
    box = [[k, k + 1.0], [CENTRE[1] - 19.3, CENTRE[1] + 19.6], [CENTRE[2] - 19.4, CENTRE[2] + 18.9]]
    assert session.add_bbox_interaction(box, True, run_prediction=False) is None
    session.add_point_interaction([float(place) for place in CENTRE], True, run_prediction=False)
    assert not array.any()
    assert session._predict() is not None and dice(array > 0, TRUTH) > AT_LEAST
    assert session._predict() is None


@pytest.mark.parametrize("axis", range(3))
def test_boxes_scribbles_and_lassos_mark_an_object_in_every_plane(connect, axis):
    session = connect()
    array = load(session)
    disc, box = disc_on(axis)
    stroke = np.zeros_like(disc)
    middle: list[slice] = [slice(size // 4, -(size // 4) or None) for size in disc.shape]
    middle[(axis + 1) % 3] = slice(disc.shape[(axis + 1) % 3] // 2, disc.shape[(axis + 1) % 3] // 2 + 1)
    stroke[tuple(middle)] = 1
    for mark in (
        lambda: session.add_bbox_interaction(box, True),
        lambda: session.add_scribble_interaction(stroke, True, interaction_bbox=box),
        lambda: session.add_lasso_interaction(disc, True, interaction_bbox=box),
    ):
        session.reset_interactions()
        mark()
        assert dice(array > 0, TRUTH) > AT_LEAST


def test_the_example_in_the_documents(served):
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", served.server.url)
    code = code.replace("api_key=None", f"api_key={served.keys['one']!r}")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the project's own
    assert dice(names["mask"] > 0, names["image"] > 0) > 0.9


def test_who_has_no_valid_key_is_told_so_when_it_connects(served):
    for url, key, status in (
        (served.url(), "wrong", 401),
        (served.url(), None, 401),
        (served.url("/sam_huge"), served.keys["one"], 404),
    ):
        assert refused(httpx.HTTPStatusError, url, key).response.status_code == status


def test_a_session_that_is_gone_and_a_full_server_are_told_as_the_client_knows_them(served, connect):
    sessions = [connect(user) for user in ("one", "two") for _ in range(MAX_SESSIONS // 2)]
    full = refused(ServerAtCapacityError, served.url(), served.keys["two"])
    assert f"all {MAX_SESSIONS} sessions are in use" in str(full)
    mine, theirs = sessions[0], sessions[-1]
    mine._http.headers["X-Lease-Token"] = theirs._lease_token or ""
    with pytest.raises(SessionExpiredError, match="connect again"):
        mine.add_point_interaction(CENTRE, True)
    assert theirs.lease_status()["idle_timeout_seconds"] > 600


def test_several_clients_at_once_get_each_their_own_mask_and_are_heard_meanwhile(connect):
    sessions = [connect(user) for user in ("one", "two")]
    arrays = [load(session) for session in sessions]
    done, slowest = threading.Event(), 0.0

    def beat() -> None:
        nonlocal slowest
        while not done.is_set():
            asked = time.monotonic()
            sessions[0].heartbeat()
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.02)

    def mark(session: nnInteractiveRemoteInferenceSession) -> None:
        session.add_point_interaction(CENTRE, True)

    threads = [threading.Thread(target=beat), *(threading.Thread(target=mark, args=(one,)) for one in sessions)]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    done.set()
    threads[0].join()
    assert np.array_equal(arrays[0], arrays[1]) and dice(arrays[0] > 0, TRUTH) > AT_LEAST
    assert slowest < 5
    sessions[1].reset_interactions()
    assert sessions[0].undo() and not arrays[0].any()


@pytest.mark.long
def test_as_many_sessions_as_there_may_be_get_at_once_what_they_get_alone(connect):
    """Each with an image and clicks of its own, bit for bit after each step."""

    def steps(number: int) -> list[np.ndarray]:
        session = connect()
        image = np.roll(IMAGE, number, axis=2)
        session.set_image(image, {"spacing": SPACING})
        array = np.zeros(SHAPE, dtype=np.uint8)
        session.set_target_buffer(array)
        k, row, column = CENTRE
        shown = []
        for point, is_foreground in (((k, row + number, column), True), ((k + 2, row + number, column + 5), True)):
            session.add_point_interaction(point, is_foreground)
            shown.append(array.copy())
        session.add_point_interaction((k, 2, 2), False)
        assert session.undo()
        session.close()
        return [*shown, array.copy()]

    alone = [steps(number) for number in range(MAX_SESSIONS)]
    with ThreadPoolExecutor(MAX_SESSIONS) as pool:
        together = list(pool.map(steps, range(MAX_SESSIONS)))
    for one, other in zip(alone, together, strict=True):
        assert one[0].any() and all(map(np.array_equal, one, other))
    assert not np.array_equal(alone[0][0], alone[1][0])


def test_a_client_that_leaves_before_its_answer_has_what_the_server_told_it_and_no_more(served, connect):
    session = connect()
    array = load(session)
    session.add_point_interaction(CENTRE, True)
    body = json.dumps({"coordinates": [CENTRE[0], 5, 5], "include_interaction": True})
    for wait in (0.0, 0.01, 0.05, 0.2):
        _leave_after(served, session, "/add_point_interaction", body, wait)
        session.add_point_interaction([CENTRE[0] + 1, *CENTRE[1:]], True)
        mine = array.copy()
        while session.undo():
            pass
        assert not array.any(), f"left after {wait} s: the undone mask is not empty at the client"
        session.add_point_interaction(CENTRE, True)
        assert dice(mine > 0, TRUTH) > AT_LEAST / 2


def _leave_after(
    served: Served, session: nnInteractiveRemoteInferenceSession, path: str, body: str, wait: float
) -> None:
    """Send a request of a session, and close the connection without reading the answer."""
    address = urlsplit(served.server.url)
    head = [
        f"POST /nninteractive{path} HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {served.keys['one']}",
        f"X-Lease-Token: {session._lease_token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        time.sleep(wait)


def test_what_was_done_is_in_the_audit_log_and_nothing_left_the_machine(served, connect):
    session = connect("two")
    load(session)
    session.heartbeat()
    session.add_point_interaction(CENTRE, True)
    session.close()
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + 5
    while not (lines and lines[-1]["route"].endswith("/release")) and time.monotonic() < deadline:
        lines = [json.loads(line) for line in served.server.audit.read_text().splitlines()]
    routes = [line["route"].removeprefix("/nninteractive/") for line in lines if line["user"] == "key:two"]
    last = "claim capabilities set_do_autozoom set_image set_target_buffer reset_interactions add_point_interaction"
    assert routes[-8:] == [*last.split(), "release"]
    marked = next(line for line in reversed(lines) if line["route"].endswith("/add_point_interaction"))
    assert marked["model"] == "sam_tiny" and len(marked["image_sha256"]) == 64 and sum(marked["prompts"].values()) == 1
    others = unknown_users_file(served.server.audit)
    assert not others.exists() or "/healthz" not in others.read_text()
    log = served.server.log.read_text(errors="replace")
    assert "OUTBOUND REFUSED" not in log and "Traceback" not in log

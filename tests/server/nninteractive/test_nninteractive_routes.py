"""The routes of nnInteractive's protocol in the real app, in this process."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from lib.base.clock import current_clock
from lib.sam.models.checkpoints import CheckpointError
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.server.admission import BusyError
from lib.server.app import create_app
from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.nninteractive import routes
from lib.server.nninteractive.container import pack, unpack
from support.asgi import ask
from support.in_process import made_app

pytestmark = pytest.mark.slow

SHAPE = (6, 24, 28)
PLAIN = ("/heartbeat", "/reset_interactions", "/undo", "/predict")
WITH_JSON = {
    "/set_target_buffer": {"shape": SHAPE, "dtype": "uint8"},
    "/set_do_autozoom": {"do_autozoom": True},
    "/add_point_interaction": {"coordinates": [3, 12, 14], "include_interaction": True, "run_prediction": False},
    "/add_bbox_interaction": {
        "bbox_coords": [[3, 4], [6, 18], [8, 20]],
        "include_interaction": True,
        "run_prediction": False,
    },
}
WITH_ARRAY = ("/set_image", "/add_scribble_interaction", "/add_lasso_interaction", "/add_initial_seg_interaction")
NEED_A_LEASE = [
    *(("POST", path) for path in (*PLAIN, *WITH_JSON, *WITH_ARRAY)),
    ("GET", "/lease_status"),
]
META = {"include_interaction": True, "run_prediction": False, "interaction_bbox": [[3, 4], [10, 14], [10, 14]]}
STROKE = pack(np.ones((1, 4, 4), np.uint8))


def ball() -> np.ndarray:
    grid = np.ogrid[:6, :24, :28]
    inside = (
        sum((axis - centre) ** 2 * step for axis, centre, step in zip(grid, (3, 12, 14), (9, 1, 1), strict=True)) < 50
    )
    return np.where(inside, 190, 70).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[FastAPI, dict[str, str]]]:
    """The app, and the keys of two users."""
    folder = tmp_path_factory.mktemp("nninteractive")
    keys = {}
    for name, role in (("one", "user"), ("two", "user"), ("none", "reviewer")):
        keys[name], entry = make_key(name, [role], None)
        KeyFile(folder / "keys.json").add(entry)
    with made_app(folder / "app", api_keys=str(folder / "keys.json"), nninteractive_sessions="4") as sam_app:
        app = create_app(sam_app)
        app.state.audit_file = sam_app.options.audit_log
        yield app, keys
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()


class Client:
    """One user's client; ``token`` is its lease's."""

    def __init__(self, app: FastAPI, key: str | None, prefix: str = "/nninteractive") -> None:
        self.app, self.prefix, self.token = app, prefix, ""
        self.login = {"Authorization": f"Bearer {key}"} if key else {}

    def headers(self, more: dict[str, str]) -> dict[str, str]:
        return {**self.login, "X-Lease-Token": self.token, **more}

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return ask(self.app, method, self.prefix + path, headers=self.headers(headers or {}), **body)

    def send_array(self, path: str, content: bytes, meta: object = META, **more: Any) -> httpx.Response:
        return self.send("POST", path, {"X-Meta": json.dumps(meta)}, content=content, **more)

    def connect(self, *, image: bool = True) -> Client:
        self.token = self.send("POST", "/claim").json()["lease_token"]
        if image:
            assert self.send_array("/set_image", pack(ball()), {"image_properties": {}}).status_code == 200
            assert self.send("POST", "/set_target_buffer", json=WITH_JSON["/set_target_buffer"]).status_code == 200
        return self


@pytest.fixture
def connect(served) -> Iterator[Callable[..., Client]]:
    """Makes clients with a lease; they give it back at the end."""
    app, keys = served
    clients = []

    def make(user: str = "one", prefix: str = "/nninteractive", **kwargs: Any) -> Client:
        clients.append(Client(app, keys[user], prefix))
        return clients[-1].connect(**kwargs)

    yield make
    for client in clients:
        client.send("POST", "/release")


def test_without_a_login_there_is_only_whether_the_server_is_there(served):
    app, keys = served
    for prefix, key, status in (
        ("/nninteractive", None, 401),
        ("/nninteractive", keys["none"], 403),
        ("/nninteractive/sam_tiny", "wrong", 401),
    ):
        stranger = Client(app, key, prefix)
        for method in ("GET", "HEAD"):
            assert stranger.send(method, "/healthz").status_code == 200
        for method, path in [*NEED_A_LEASE, ("POST", "/claim"), ("GET", "/capabilities"), ("POST", "/release")]:
            assert stranger.send(method, path).status_code == status, path
    assert Client(app, None).send("GET", "/healthz/more").status_code in (401, 404)


def test_a_lease_is_of_one_user_and_for_one_model(served, connect):
    app, keys = served
    client = connect(image=False)
    for user, token in (("two", client.token), ("one", ""), ("one", "0" * 32)):
        other = Client(app, keys[user])
        other.token = token
        for method, path in NEED_A_LEASE:
            body = {"json": WITH_JSON[path]} if path in WITH_JSON else {}
            answered = other.send(method, path, **body)
            assert (answered.status_code, "connect again" in answered.text) == (410, True), path
        other.send("POST", "/release")
    assert client.send("GET", "/lease_status").json()["remaining_seconds"] > 1700


def test_an_unknown_model_is_404_everywhere(served):
    app, keys = served
    client = Client(app, keys["one"], "/nninteractive/sam_huge")
    for method, path in [*NEED_A_LEASE, ("POST", "/claim"), ("GET", "/capabilities"), ("GET", "/healthz")]:
        body = {"json": WITH_JSON[path]} if path in WITH_JSON else {}
        answered = client.send(method, path, **body)
        assert (answered.status_code, answered.json()["detail"]) == (
            404,
            "there is no model 'sam_huge'; the models are: sam_tiny",
        ), path


def test_what_a_model_can_be_asked_for_and_its_licence(connect):
    can = connect(image=False).send("GET", "/capabilities").json()
    assert set(can["supported_interactions"].items()) == {
        (kind, True) for kind in ("points", "bbox2d", "bbox3d", "scribble", "lasso")
    }
    assert can["license"].startswith("MIT (sam_tiny on SAM app ")
    assert (can["supports_undo"], can["supports_initial_label"], can["interaction_decay"]) == (True, True, None)
    assert can["preferred_scribble_thickness"] == [2, 2, 2] and can["channel_mapping"] == {}


def test_the_client_that_is_one_too_many_is_told_when_to_come_again(served, connect):
    app, keys = served
    for _ in range(4):
        connect(image=False)
    refused = Client(app, keys["two"]).send("POST", "/claim")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert "all 4 sessions" in refused.json()["detail"]


def test_there_is_no_session_without_memory_for_one(served):
    app, keys = served
    memory = app.state.nninteractive.memory
    held = memory.try_reserve(memory.total - 1)
    refused = Client(app, keys["one"]).send("POST", "/claim")
    assert refused.status_code == 503 and "nninteractive_max_mb" in refused.json()["detail"]
    held.release()
    client = Client(app, keys["one"]).connect(image=False)
    assert client.token
    client.send("POST", "/release")


def test_an_answer_changes_one_box_and_says_how_long_what_took(served, connect):
    client = connect()
    answered = client.send(
        "POST", "/add_point_interaction", json={"coordinates": [3, 12, 14], "include_interaction": True}
    )
    assert answered.status_code == 200 and answered.headers["content-type"] == "application/octet-stream"
    meta = json.loads(answered.headers["x-meta"])
    assert meta["ran_prediction"] and meta["dtype"] == "uint8"
    assert meta["shape"] == [high - low for low, high in meta["bbox"]]
    values = unpack(answered.content, max_values=10_000)
    assert list(values.shape) == meta["shape"] and set(np.unique(values)) <= {0, 1} and values.any()
    undone = client.send("POST", "/undo")
    assert json.loads(undone.headers["x-meta"])["bbox"] == meta["bbox"]
    assert not unpack(undone.content, max_values=10_000).any()
    nothing = client.send("POST", "/undo")
    assert json.loads(nothing.headers["x-meta"]) == {"ran_prediction": False, "bbox": None} and not nothing.content


def test_the_audit_log_has_what_was_done_and_no_heartbeats(served, connect):
    app = served[0]
    client = connect()
    before = len(app.state.audit_file.read_text().splitlines())
    for path in ("/heartbeat", "/add_point_interaction", "/heartbeat"):
        assert client.send("POST", path, json=WITH_JSON.get(path, {})).status_code == 200
    client.send("GET", "/lease_status")
    client.send("GET", "/healthz")
    (line,) = [json.loads(line) for line in app.state.audit_file.read_text().splitlines()[before:]]
    assert (line["route"], line["user"], line["model"]) == (
        "/nninteractive/add_point_interaction",
        "key:one",
        "sam_tiny",
    )
    assert line["checkpoint_sha256"] == app.state.nninteractive.engine.predictor("sam_tiny").checkpoint_sha256
    assert sum(line["prompts"].values()) == 1 and len(line["image_sha256"]) == 64


def test_bodies_are_bounded_and_the_larger_ones_are_arrays(connect):
    client = connect()
    long = b"x" * (1 << 20) + b"x"
    assert client.send("POST", "/add_point_interaction", content=long).status_code == 413
    assert client.send_array("/set_image", long, {}).status_code == 400
    assert client.send("POST", "/heartbeat", content=long).status_code == 200  # unread

    async def in_parts():
        yield STROKE

    unannounced = client.send_array("/add_scribble_interaction", in_parts())
    assert (unannounced.status_code, unannounced.json()["detail"]) == (
        411,
        "say how long the body is (Content-Length)",
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BusyError("16 segmentations wait"), 500),
        (RuntimeUnavailableError("no such runtime"), 500),
        (CheckpointError("the checkpoint has changed"), 404),
    ],
)
def test_a_prompt_is_never_told_that_the_server_is_full(served, connect, monkeypatch, error, status):
    client = connect()

    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(served[0].state.nninteractive.engine, "predictor", fail)
    refused = client.send("POST", "/add_point_interaction", json=WITH_JSON["/add_point_interaction"])
    assert (refused.status_code, refused.json()["detail"], refused.headers.get("retry-after")) == (
        status,
        str(error),
        None,
    )
    assert client.send("POST", "/undo").status_code == status
    monkeypatch.undo()
    assert json.loads(client.send("POST", "/undo").headers["x-meta"])["ran_prediction"] is False


def test_an_answer_that_its_client_does_not_wait_for_is_told_by_the_next(served, connect, monkeypatch):
    app = served[0]
    client = connect()
    point = {"coordinates": [3, 12, 14], "include_interaction": True}
    content = json.dumps(point).encode()
    sent: list[dict[str, Any]] = []

    async def leave_before_the_answer_is_sent() -> None:
        loop, left = asyncio.get_running_loop(), asyncio.Event()
        received = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in received:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        def pack_when_it_has_left(values: np.ndarray) -> bytes:
            loop.call_soon_threadsafe(left.set)
            while not current_clock().is_cancelled:
                time.sleep(0.005)
            return pack(values)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        monkeypatch.setattr(routes, "pack", pack_when_it_has_left)
        headers = {"host": "server", "content-type": "application/json", "content-length": str(len(content))}
        path = "/nninteractive/add_point_interaction"
        await app(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": [(name.lower().encode(), value.encode()) for name, value in client.headers(headers).items()],
                "client": ("192.0.2.7", 50000),
                "server": ("server", 80),
            },
            receive,
            send,
        )

    asyncio.run(leave_before_the_answer_is_sent())
    monkeypatch.undo()
    assert sent[0]["status"] == 200, "the mask was made"
    told = client.send("POST", "/predict")
    meta = json.loads(told.headers["x-meta"])
    assert meta["ran_prediction"] and meta["bbox"] and unpack(told.content, max_values=10_000).any()
    assert json.loads(client.send("POST", "/predict").headers["x-meta"])["ran_prediction"] is False


def test_what_is_not_found_in_time_is_found_after_the_answer_and_told_by_the_next(served, connect, monkeypatch):
    app = served[0]
    service = app.state.nninteractive
    client = connect()
    point = {"coordinates": [3, 12, 14], "include_interaction": True}
    whole = client.send("POST", "/add_point_interaction", json=point)
    client.send("POST", "/reset_interactions")
    service.engine.cache.drop(lambda _: True)
    before = service._part_count
    monkeypatch.setattr(service, "seconds", 0.0)
    session = service.leases.session(client.token, "sam_tiny key:one", is_use=False)
    told: list[httpx.Response] = []

    async def ask_twice() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://server{client.prefix}") as http:
            told.append(await http.post("/add_point_interaction", headers=client.headers({}), json=point))
            while session.turns._task is None or not session.turns._task.done():
                await asyncio.sleep(0.01)
            told.append(await http.post("/predict", headers=client.headers({})))

    asyncio.run(asyncio.wait_for(ask_twice(), 60))
    first, rest = (json.loads(one.headers["x-meta"]) for one in told)
    assert first["ran_prediction"] and first["bbox"] != json.loads(whole.headers["x-meta"])["bbox"]
    assert rest["ran_prediction"] and rest["bbox"] and service._part_count == before + 1
    mask = np.zeros(SHAPE, np.uint8)
    for one in told:
        box = json.loads(one.headers["x-meta"])["bbox"]
        if box:
            mask[tuple(slice(*ends) for ends in box)] = unpack(one.content, max_values=10_000)
    expected = np.zeros_like(mask)
    box = json.loads(whole.headers["x-meta"])["bbox"]
    expected[tuple(slice(*ends) for ends in box)] = unpack(whole.content, max_values=10_000)
    assert np.array_equal(mask, expected)


def test_2000_damaged_requests_are_answered_and_none_by_a_fault_of_the_server(served, connect):
    client = connect()
    rng = np.random.default_rng(7)
    segmentation = pack((ball()[0] > 100).astype(np.uint8))
    arrays = {
        "/set_image": (pack(ball()), {"image_properties": {"spacing": [3, 1, 1]}}),
        "/add_scribble_interaction": (STROKE, META),
        "/add_lasso_interaction": (STROKE, META),
        "/add_initial_seg_interaction": (segmentation, {"run_prediction": False}),
    }

    def damaged(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            if not changed:
                break
            at = int(rng.integers(len(changed) if rng.random() < 0.3 else min(len(changed), 80)))
            kind = rng.random()
            if kind < 0.7:
                changed[at] = rng.choice((0, 1, 2, 4, 127, 128, 255, rng.integers(256)))
            elif kind < 0.85:
                del changed[at : at + int(rng.integers(1, 40))]
            else:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        return bytes(changed)

    statuses: Counter[int] = Counter()

    async def send_all() -> None:
        transport = httpx.ASGITransport(served[0], raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://server{client.prefix}") as http:

            async def send_whole(path: str, **body: Any) -> None:
                assert (await http.post(path, headers=client.headers({}), **body)).status_code == 200

            for n, path in zip(range(2000), itertools.cycle([*arrays, *WITH_JSON]), strict=False):
                headers: dict[str, str | bytes] = {**client.headers({})}
                if path in arrays:
                    content, meta = arrays[path]
                    text = json.dumps(meta).encode()
                    headers["X-Meta"] = damaged(text) if n % 3 == 0 else text
                    content = content if n % 3 == 0 else damaged(content)
                else:
                    content = damaged(json.dumps(WITH_JSON[path]).encode())
                    headers["Content-Type"] = "application/json"
                answered = await http.post(path, headers=headers, content=content)
                assert answered.status_code < 500, (path, content, headers.get("X-Meta"), answered.text)
                assert answered.status_code < 400 or answered.json()["detail"]
                statuses[answered.status_code] += 1
                if path == "/set_image" and answered.status_code == 200:  # so that prompts find an image again
                    await send_whole(path, content=arrays[path][0])
                    await send_whole("/set_target_buffer", json=WITH_JSON["/set_target_buffer"])

    asyncio.run(send_all())
    assert statuses.total() == 2000 and min(statuses[status] for status in (200, 400, 413, 422)) > 20, statuses
    client.connect()
    assert client.send("POST", "/add_point_interaction", json=WITH_JSON["/add_point_interaction"]).status_code == 200

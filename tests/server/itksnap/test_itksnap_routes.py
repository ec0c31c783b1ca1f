"""The routes of ITK-SNAP's protocol in the real app, in this process."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from lib.server.app import create_app
from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.itksnap.service import IDLE_S, MOST_SESSIONS
from support.asgi import ask
from support.in_process import made_app
from support.itksnap import form, mask_in

pytestmark = pytest.mark.slow

SHAPE = (6, 24, 28)
PORT = 8911


def ball() -> np.ndarray:
    grid = np.ogrid[:6, :24, :28]
    inside = (
        sum((axis - centre) ** 2 * step for axis, centre, step in zip(grid, (3, 12, 14), (9, 1, 1), strict=True)) < 50
    )
    return np.where(inside, 190.0, 70.0)


STROKE = np.zeros(SHAPE)
STROKE[3, 12, 11:18] = 1
POINT = {"x": 14, "y": 12, "z": 3, "foreground": "true"}
WITH_SESSION = [
    ("POST", "/upload_raw/{}"),
    ("POST", "/v2/upload_raw/{}"),
    ("GET", "/process_point_interaction/{}"),
    ("GET", "/v2/process_point_interaction/{}"),
    ("POST", "/process_scribble_interaction/{}"),
    ("POST", "/process_lasso_interaction/{}"),
    ("GET", "/reset_interactions/{}"),
    ("GET", "/v2/reset_interactions/{}"),
]
WITHOUT = [("GET", path) for path in ("/v2/models", "/start_session", "/v2/start_session/sam_tiny")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[FastAPI, dict[str, str]]]:
    """The app, and the keys of its users."""
    folder = tmp_path_factory.mktemp("itksnap")
    keys = {}
    for name, role in (("one", "user"), ("two", "user"), ("none", "reviewer")):
        keys[name], entry = make_key(name, [role], None)
        KeyFile(folder / "keys.json").add(entry)
    conf = {"api_keys": str(folder / "keys.json"), "itksnap_port": str(PORT), "ahead": "0"}
    with made_app(folder / "app", **conf) as sam_app:
        app = create_app(sam_app)
        yield app, keys
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()


class Client:
    """One user's client, at ITK-SNAP's port."""

    def __init__(self, served: tuple[FastAPI, dict[str, str]], user: str | None = "one") -> None:
        self.app, keys = served
        self.login = {"Authorization": f"Bearer {keys.get(user, user)}"} if user else {}
        self.session = ""

    def send(self, method: str, path: str, headers: dict[str, str] | None = None, **kwargs: Any) -> httpx.Response:
        url = f"http://server:{PORT}" + path.format(self.session)
        return ask(self.app, method, url, headers={**self.login, **(headers or {})}, **kwargs)

    def start(self, model: str = "sam_tiny_3d", image: np.ndarray | None = None) -> Client:
        self.session = self.send("GET", f"/v2/start_session/{model}").json()["session_id"]
        if image is not None:
            assert self.upload(image).status_code == 200
        return self

    def upload(self, image: np.ndarray, **metadata: Any) -> httpx.Response:
        return self.send("POST", "/upload_raw/{}", files=form(image, **metadata))

    def draw(self, kind: str, drawn: np.ndarray, **metadata: Any) -> httpx.Response:
        path = f"/process_{kind}_interaction/{{}}?foreground=true"
        return self.send("POST", path, files=form(drawn, **metadata))

    def point(self) -> httpx.Response:
        return self.send("GET", "/process_point_interaction/{}", params=POINT)


@pytest.fixture
def client(served) -> Iterator[Client]:
    made = Client(served).start(image=ball())
    yield made
    assert made.send("GET", "/end_session/{}").status_code == 200


def test_without_a_login_there_is_only_whether_the_server_is_there(served):
    for user, status in ((None, 401), ("wrong", 401), ("none", 403)):
        stranger = Client(served, user)
        stranger.session = "0" * 32
        assert stranger.send("GET", "/status").json() == {"status": "ok", "version": "0.1.6"}
        for method, path in [*WITHOUT, *WITH_SESSION, ("GET", "/end_session/{}")]:
            assert stranger.send(method, path).status_code == status, path


def test_a_session_is_of_one_user_and_an_unknown_one_is_never_answered_200(served, client):
    for user, session in (("two", client.session), ("one", "0" * 32), ("one", "x")):
        other = Client(served, user)
        other.session = session
        for method, path in WITH_SESSION:
            answered = other.send(method, path, files=form(STROKE) if method == "POST" else None, params=POINT)
            assert answered.status_code == 404, path
            assert "choose the server again" in answered.json()["detail"]
        assert other.send("GET", "/end_session/{}").status_code == 200
    assert client.point().status_code == 200


def test_an_unknown_model_is_404_with_those_that_there_are(served):
    refused = Client(served).send("GET", "/v2/start_session/sam_huge")
    assert (refused.status_code, refused.json()["detail"]) == (
        404,
        "there is no model 'sam_huge'; the models are: sam_tiny_3d, sam_tiny, nnInteractive",
    )


def test_models_for_boxes_alone_are_not_offered(served, monkeypatch):
    engine = served[0].state.itksnap.engine
    spec = replace(engine.specs["sam_tiny"], prompts=("box",))
    monkeypatch.setitem(engine.specs, "sam_tiny", spec)
    assert Client(served).send("GET", "/v2/models").json() == {"models": []}
    assert Client(served).send("GET", "/start_session").status_code == 404
    monkeypatch.setitem(engine.specs, "sam_tiny", replace(spec, prompts=("point",)))
    models = Client(served).send("GET", "/v2/models").json()["models"]
    assert [(model["id"], model["interactions"]) for model in models] == [
        ("sam_tiny_3d", ["point", "scribble"]),
        ("sam_tiny", ["point", "scribble"]),
    ]


def test_foreign_pages_and_head_change_nothing(served):
    count = served[0].state.itksnap.leases.count
    client = Client(served)
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert client.send("GET", "/start_session", foreign).status_code == 403
    assert client.send("GET", "/status", foreign).status_code == 200
    assert client.send("HEAD", "/start_session").status_code == 405
    assert served[0].state.itksnap.leases.count == count


def test_prompts_before_an_image_are_refused_and_a_reset_is_not(served):
    client = Client(served).start()
    for answered in (client.point(), client.draw("scribble", STROKE), client.draw("lasso", STROKE)):
        assert (answered.status_code, answered.json()["detail"]) == (
            400,
            "there is no image: send one first (/upload_raw)",
        )
    assert client.send("GET", "/reset_interactions/{}").json() == {"status": "success"}
    client.send("GET", "/v2/end_session/{}")


def test_what_cannot_be_meant_is_refused_and_leaves_everything_as_it_was(client):
    before = client.point().json()
    thick = np.zeros(SHAPE)
    thick[2:4, 5:9, 5:9] = 1
    whole = form(STROKE)
    for answered, status, said in (
        (client.send("GET", "/process_point_interaction/{}", params={**POINT, "x": 28}), 400, "[14"),
        (client.send("GET", "/process_point_interaction/{}", params={"x": 1, "y": 2}), 422, "z"),
        (client.send("GET", "/v2/process_point_interaction/{}?point=1"), 422, "point"),
        (client.send("GET", "/v2/process_point_interaction/{}?point=1&point=2"), 400, "not inside"),
        (client.draw("scribble", STROKE[:4]), 400, "[28, 24, 4] voxels; it must have [28, 24, 6]"),
        (client.draw("lasso", thick), 400, "not in one plane"),
        (client.draw("scribble", STROKE, dimensions=[28, 24, 7]), 400, "it must have"),
        (client.draw("scribble", STROKE, component_type="int8"), 422, "component_type"),
        (client.send("POST", "/process_scribble_interaction/{}", files={"file": whole["file"]}), 422, "metadata"),
        (client.send("POST", "/process_scribble_interaction/{}", files={"metadata": whole["metadata"]}), 422, "file"),
        (client.send("POST", "/process_scribble_interaction/{}", json={}), 415, "form"),
        (client.send("POST", "/process_scribble_interaction/{}", files={**whole, "more": b"x"}), 422, "more"),
    ):
        assert answered.status_code == status, answered.text
        detail = json.dumps(answered.json()["detail"])
        assert said in detail or (said == "[14" and "[28, 24, 6]" in detail), detail
    empty = client.draw("scribble", np.zeros(SHAPE))
    assert empty.json() == before


def test_images_that_are_refused(served):
    client = Client(served).start()
    for image, metadata, status, said in (
        (ball(), {"dimensions": [28, 24, 5]}, 400, "more than the 3360 values"),
        (ball(), {"dimensions": [28, 24, 7]}, 400, "ends before the 4704 values"),
        (ball(), {"dimensions": [100_000, 100_000, 1000]}, 413, "voxels; at most"),
        (ball(), {"dimensions": [28, 24]}, 400, "more than"),
        (ball(), {"components_per_pixel": 3}, 422, "one component"),
    ):
        answered = client.upload(image, **metadata)
        assert answered.status_code == status and said in answered.text, answered.text
        assert client.point().status_code == 400
    flat = Client(served).start("sam_tiny")
    refused = flat.upload(ball())
    assert refused.status_code == 400 and "choose a 3D model" in refused.json()["detail"]
    assert flat.upload(ball()[3]).status_code == 200
    for one in (client, flat):
        one.send("GET", "/end_session/{}")


def test_values_that_are_no_numbers_are_dark(served):
    image = ball()
    image[:, :3] = np.nan
    image[:, -3:] = np.inf
    client = Client(served).start(image=image)
    assert mask_in(client.point().json(), SHAPE)[3, 12, 14]
    client.send("GET", "/end_session/{}")


def test_a_session_ends_when_its_memory_is_needed_but_none_that_is_worked_on(served, monkeypatch):
    service = served[0].state.itksnap
    assert service.memory is served[0].state.nninteractive.memory
    old, new = Client(served).start(image=ball()), Client(served, "two").start()
    rest = service.memory.try_reserve(service.memory.total - service.memory.taken - 1)
    monkeypatch.setattr(type(service.leases.session(old.session, "key:one", is_use=False).turns), "is_idle", False)
    refused = new.upload(ball())
    assert refused.status_code == 413 and "nninteractive_max_mb" in refused.json()["detail"]
    monkeypatch.undo()
    rest.release()
    rest = service.memory.try_reserve(service.memory.total - service.memory.taken - 7 * ball().size)
    assert new.upload(ball()).status_code == 200
    rest.release()
    assert (old.point().status_code, new.point().status_code) == (404, 200)
    new.send("GET", "/end_session/{}")


def test_one_session_more_than_there_may_be_ends_one_without_an_image(served, client):
    service = served[0].state.itksnap
    sessions = [Client(served, "two").start() for _ in range(MOST_SESSIONS + 3 - service.leases.count)]
    assert service.leases.count == MOST_SESSIONS
    assert client.point().status_code == 200
    gone = [one.send("GET", "/reset_interactions/{}").status_code for one in sessions]
    assert gone[:3] == [404] * 3 and set(gone[3:]) == {200}
    for one in sessions:
        one.send("GET", "/end_session/{}")


def test_a_session_ends_after_half_a_day_without_use(served, client, monkeypatch):
    service = served[0].state.itksnap
    now = service.leases._now()
    monkeypatch.setattr(service.leases, "_now", lambda: now + IDLE_S - 60)
    service.leases.sweep()
    assert service.leases.count >= 1
    monkeypatch.setattr(service.leases, "_now", lambda: now + IDLE_S + 60)
    taken = service.memory.taken
    service.leases.sweep()
    assert service.leases.count == 0 and service.memory.taken < taken
    monkeypatch.undo()


def test_300_damaged_requests_are_answered_and_none_by_a_fault_of_the_server(served):
    image, stroke = ball()[3], STROKE[3]  # one slice, as it is segmented soonest
    client = Client(served).start("sam_tiny", image)
    rng = np.random.default_rng(7)

    def damaged(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(changed))) if changed else 0
            kind = rng.random()
            if kind < 0.6 and changed:
                changed[at] = rng.choice((0, 1, 34, 45, 57, 255, rng.integers(256)))
            elif kind < 0.8:
                del changed[at : at + int(rng.integers(1, 20))]
            else:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        return bytes(changed)

    statuses: Counter[int] = Counter()

    async def send_all() -> None:
        transport = httpx.ASGITransport(served[0], raise_app_exceptions=False)
        base = f"http://server:{PORT}"
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=client.login) as http:
            for n in range(300):
                kind = ("upload_raw", "process_scribble_interaction", "process_lasso_interaction")[n % 3]
                parts = form(image if n % 3 == 0 else stroke)
                name, metadata, media_type = parts["metadata"]
                if n % 8 < 3:
                    parts["metadata"] = name, damaged(metadata.encode()), media_type
                if n % 8 in (2, 3, 4, 5):
                    file, content, media_type = parts["file"]
                    raw = gzip.compress(damaged(gzip.decompress(content)), 1)
                    parts["file"] = file, raw if rng.random() < 0.5 else damaged(content), media_type
                request = http.build_request("POST", f"/{kind}/{client.session}?foreground=true", files=parts)
                body = await request.aread()
                answered = await http.post(
                    request.url, content=damaged(body) if n % 8 == 6 else body, headers=request.headers
                )
                assert answered.status_code < 500, (kind, body, answered.text)
                if answered.status_code >= 400:
                    assert answered.json()["detail"]
                elif kind != "upload_raw":
                    mask_in(answered.json(), image.shape)
                statuses[answered.status_code] += 1
                if kind == "upload_raw":  # so that drawings find the image again
                    again = await http.post(f"/upload_raw/{client.session}", files=form(image))
                    assert again.status_code == 200

    asyncio.run(send_all())
    assert statuses.total() == 300 and min(statuses[status] for status in (200, 400, 422)) > 10, statuses
    whole = client.send("GET", "/process_point_interaction/{}", params={**POINT, "z": 0})
    assert mask_in(whole.json(), image.shape).any()
    client.send("GET", "/end_session/{}")

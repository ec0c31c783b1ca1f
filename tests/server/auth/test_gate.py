"""The gate in front of a small app that shows what comes through."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request, UploadFile, WebSocket
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User, get_current_user
from starlette.staticfiles import StaticFiles

from lib.server.auth.api_keys import make_key
from lib.server.auth.authenticator import Authenticator
from lib.server.auth.gate import Gate, user_of_request
from lib.server.auth.key_file import KeyFile, KeyRing
from lib.server.auth.pages import Pages
from support.asgi import ask


@pytest.fixture
def key(tmp_path) -> str:
    key, entry = make_key("viewer", ["user"], None)
    KeyFile(tmp_path / "keys.json").add(entry)
    return key


@pytest.fixture
def app(key, tmp_path) -> FastAPI:
    app = FastAPI()
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "file").write_text("data")
    app.mount("/static", StaticFiles(directory=tmp_path / "static"))

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @app.post("/labels")
    async def label(request: Request, user: Annotated[User, Depends(RBAC("monailabel-annotator"))], file: UploadFile):
        return len(await file.read())

    @app.post("/auth/token")
    async def login(request: Request) -> int:
        return len(await request.body())

    @app.api_route("/{path:path}", methods=["GET", "POST", "OPTIONS"])
    def show(request: Request) -> dict[str, Any]:
        return {"user": getattr(request.state, "user", None), "headers": dict(request.headers)}

    app.dependency_overrides[get_current_user] = user_of_request
    authenticator = Authenticator(KeyRing(KeyFile(tmp_path / "keys.json")), None)
    app.add_middleware(Gate, authenticator=authenticator, pages=Pages({"server"}, {"https://viewer.example"}))
    return app


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(name: str, key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()}


@pytest.mark.parametrize(
    "path",
    ["/health_check/", "/health_check", "/auth/", "/auth", "/auth/token", "/sam/", "/sam", "/sam/page/x.js", "/"],
)
def test_open_paths(app, path):
    answer = ask(app, "GET", path)
    assert answer.status_code == 200 and answer.json()["user"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/info/",
        "/static/file",
        "/ohif/index.html",
        "/nowhere",
        "/auth/token/valid",
        "/health_check//",
        "/health_check/x",
        "/Health_check/",
        "/docs%2f..%2finfo/",
        "/sam/page",
        "/sam/other",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_all_else_is_closed(app, path, method):
    answer = ask(app, method, path)
    assert answer.status_code == 401 and "Authorization: Bearer" in answer.json()["detail"]
    assert answer.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="SAM app", charset="UTF-8"']


def test_a_folder_of_files_is_closed_and_opens(app, key):
    assert ask(app, "GET", "/static/file", headers=bearer(key)).text == "data"


def test_sockets_are_closed_and_open(app, key):
    def connect(headers: dict[str, str]) -> str:
        sent = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "websocket", "path": "/socket", "headers": encoded, "query_string": b"", "subprotocols": []}
        scope |= {"extensions": {"websocket.http.response": {}}}
        asyncio.run(app(scope, receive, send))
        return sent[0]["type"]

    assert connect({}) == "websocket.http.response.start"
    assert connect(bearer(key)) == "websocket.accept"


@pytest.mark.parametrize("login", [bearer, lambda key: basic("viewer", key)], ids=["bearer", "basic"])
def test_the_user_comes_through_and_the_key_does_not(app, key, login):
    seen = ask(app, "GET", "/info/", headers=login(key) | {"X-Other": "kept"})
    assert seen.json()["user"]["username"] == "key:viewer"
    assert seen.json()["user"]["roles"] == ["monailabel-user"]
    assert seen.json()["headers"]["x-other"] == "kept"
    assert "authorization" not in seen.json()["headers"] and key not in seen.text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "bearer x",
        "Bearer {key}x",
        "Bearer {key} x",
        "{key}",
        "Token {key}",
        "Basic",
        "Basic %%",
        "Basic {key}",
        "Digest x",
        "Bearer \xe9",
    ],
)
def test_headers_that_are_refused(app, key, header, caplog):
    answer = ask(app, "GET", "/info/", headers={"Authorization": header.format(key=key).encode("latin-1")})
    assert answer.status_code == 401
    assert key not in answer.text and key not in caplog.text
    assert caplog.text.count("Refused a request from 192.0.2.7") == 1


@pytest.mark.parametrize("login", [bearer, lambda key: basic("guest", key)], ids=["bearer", "basic"])
@pytest.mark.parametrize(("seconds", "status"), [(60, 200), (0, 401), (-1, 401)])
def test_a_key_ends_when_it_expires(app, tmp_path, login, seconds, status):
    key, entry = make_key("guest", ["user"], 1)
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    KeyFile(tmp_path / "keys.json").add(replace(entry, expires=expires))
    answer = ask(app, "GET", "/info/", headers=login(key))
    assert answer.status_code == status
    assert (answer.json().get("detail") == "the API key 'guest' has expired") is (status == 401)


def test_a_basic_login_needs_the_name_too(app, key):
    assert ask(app, "GET", "/info/", headers=basic("other", key)).status_code == 401
    assert ask(app, "GET", "/info/", headers=basic("", key)).status_code == 401
    assert ask(app, "GET", "/info/", headers=basic("viewer", "")).status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://server", 200),
        ("https://viewer.example", 200),
        ("https://evil.example", 403),
        ("http://server.evil.example", 403),
        ("http://server:8000", 403),
        ("null", 403),
    ],
)
def test_a_login_that_the_browser_remembers_is_not_for_other_pages(app, key, origin, status):
    """A page of another site cannot send Bearer without knowing the key; Basic is sent along without its doing."""
    assert ask(app, "POST", "/infer/sam_tiny", headers=basic("viewer", key) | {"Origin": origin}).status_code == status
    assert ask(app, "POST", "/infer/sam_tiny", headers=bearer(key) | {"Origin": origin}).status_code == 200


END = b"\r\n--b--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(("role", "status"), [("user", 403), ("annotator", 200)])
def test_a_role_is_asked_for_before_the_body_is_read(app, tmp_path, monkeypatch, role, status):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    key, entry = make_key("someone", [role], None)
    KeyFile(tmp_path / "keys.json").add(entry)
    answer, received = ask_piecewise(app, "/labels", FORM | bearer(key))
    assert answer == status
    assert bool(received) is (status == 200)


def ask_piecewise(app: FastAPI, path: str, headers: dict[str, str]) -> tuple[int, list[bytes]]:
    """The status of a POST, and what of its body was asked for."""
    pieces = [b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nvoxels', END]
    received: list[bytes] = []
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if len(received) == len(pieces):
            await asyncio.sleep(60)
        received.append(pieces[len(received)])
        return {"type": "http.request", "body": received[-1], "more_body": len(received) < len(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": encoded, "query_string": b"", "root_path": ""}
    asyncio.run(app(scope | {"http_version": "1.1", "scheme": "http", "server": ("x", 1)}, receive, send))
    return sent[0]["status"], received


def test_a_login_takes_a_small_body(app):
    assert ask(app, "POST", "/auth/token", content=bytes(2**16)).json() == 2**16
    answer = ask(app, "POST", "/auth/token", content=bytes(2**16 + 1))
    assert answer.status_code == 413 and "0.0625 MiB" in answer.json()["detail"]
    large = b"--b\r\n" + bytes(2**18) + END
    assert ask(app, "POST", "/auth/token", headers=FORM, content=large).status_code == 413

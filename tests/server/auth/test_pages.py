"""Which web pages may use the server, and by which names."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
from fastapi import FastAPI, Request

from lib.server.auth.pages import PageCheck, Pages, accepted_hosts
from support.asgi import ask

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CHANGING = ["POST", "PUT", "PATCH", "DELETE"]


def make_app(*hosts: str, origins: tuple[str, ...] = ("https://viewer.example",)) -> FastAPI:
    app = FastAPI()
    app.state.bodies = []

    @app.api_route("/{path:path}", methods=METHODS)
    async def take(request: Request) -> None:
        app.state.bodies.append(await request.body())

    app.add_middleware(PageCheck, pages=Pages(accepted_hosts(hosts, ["--host", "bound.example"]), origins))
    return app


def asked_as(host: str, *hosts: str, method: str = "GET") -> int:
    return ask(make_app(*hosts), method, "/info/", headers={"Host": host}).status_code


MACHINE = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8000", "LOCALHOST", "localhost."),
        *("127.0.0.1", "127.0.0.1:8000", "127.8.9.1", "10.1.2.3:80", "[::1]:8000", "[fe80::1%eth0]:8000", "[::1]"),
        *("bound.example", "bound.example:8000", "sam.hospital.example", "Sam.Hospital.Example:443"),
        *(MACHINE, f"{MACHINE}:8000", MACHINE.partition(".")[0] + ".local"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_names_and_addresses_of_this_server(host, method):
    assert asked_as(host, "sam.hospital.example", method=method) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io"),
        *(
            "sam.hospital.example.evil",
            "x.sam.hospital.example",
            "evil",
            "[evil]",
            "[::1].evil",
            "0x7f.1",
            "localhost:x@e",
        ),
        *("a b", "<script>", "127.0.0.1@evil.example"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_other_names_are_misdirected(host, method):
    app = make_app("sam.hospital.example")
    answer = ask(app, method, "/info/", headers={"Host": host}, content=b"body")
    assert answer.status_code == 421 and app.state.bodies == []
    if method != "HEAD":
        assert "--conf hosts" in answer.json()["detail"] and "<" not in answer.text


def test_any_name_if_the_operator_says_so():
    assert asked_as("evil.example", "*") == 200


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),  # its user typed the address
        ({"Origin": "http://localhost:8000"}, 200),  # browsers send Sec-Fetch-Site only to localhost and by TLS
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://viewer.example"}, 200),
        ({"Origin": "https://viewer.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "nonsense"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:9000"}, 403),
        ({"Origin": "http://localhost:8000.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://["}, 403),
    ],
    ids=str,
)
def test_what_changes_something_comes_from_pages_that_may(method, headers, status):
    app = make_app()
    answer = ask(app, method, "/infer/x", headers=headers | {"Host": "localhost:8000"}, content=b"body")
    assert answer.status_code == status, answer.text
    assert app.state.bodies == ([b"body"] if status == 200 else [])
    if status == 403:
        assert "--conf cors_origins" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["sam.example:80", "sam.example"])
def test_a_proxy_may_add_the_schemes_own_port(host):
    headers = {"Host": host, "Origin": "http://sam.example"}
    assert ask(make_app("sam.example"), "POST", "/infer/x", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_is_the_browsers_to_forbid(method):
    """A link from another system opens the viewer; without CORS a page cannot read what it fetched."""
    headers = {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert ask(make_app(), method, "/ohif/", headers=headers).status_code == 200


def test_every_page_if_the_operator_says_so_but_not_with_a_login_that_the_browser_adds():
    headers = {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}
    assert ask(make_app(origins=("*",)), "POST", "/infer/x", headers=headers).status_code == 200


def test_where_reading_changes_something_it_comes_from_pages_that_may_too():
    app = FastAPI()
    app.add_api_route("/{path:path}", lambda path: path, methods=["GET"])
    app.add_middleware(PageCheck, pages=Pages({"localhost"}, ()), changing_paths=re.compile("/start/.*"))
    foreign = {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}
    for path, headers, status in (
        ("/start/x", foreign, 403),
        ("/start/x", {"Host": "localhost"}, 200),
        ("/restart/x", foreign, 200),
        ("/read/start/x", foreign, 200),
    ):
        assert ask(app, "GET", path, headers=headers).status_code == status, path


def test_sockets_are_looked_at_as_well():
    def connect(**headers: str) -> list[Any]:
        sent: list[Any] = []

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            sent.append("let in")

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "websocket", "path": "/x", "headers": encoded, "extensions": {"websocket.http.response": {}}}
        asyncio.run(PageCheck(inner, Pages({"localhost"}, ()))(scope, receive, send))
        return sent

    assert connect(host="localhost") == ["let in"]
    assert connect(host="localhost", origin="http://evil.example")[0] == "websocket.http.response.start"
    assert connect(host="evil.example")[0] == "websocket.http.response.start"

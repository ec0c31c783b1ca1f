"""Redirects do not follow what a client claims in ``Host``."""

import pytest
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from lib.server.http.response_headers import RelativeRedirects
from support.asgi import ask


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/info/")
    def info() -> None:
        return None

    @app.get("/away")
    def away(to: str) -> RedirectResponse:
        return RedirectResponse(to)

    app.add_middleware(RelativeRedirects)
    return app


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:8000", "[::1]:8000"])
def test_a_missing_slash(host):
    answer = ask(make_app(), "GET", "/info?a=1&b=%2F", headers={"Host": host})
    assert answer.status_code == 307 and answer.headers["location"] == "/info/?a=1&b=%2F"


@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("http://server/x", "/x"),
        ("https://server/x?y#z", "/x?y#z"),
        ("http://server//evil.example/", "/evil.example/"),
        ("http://server", "/"),
        ("https://other.example/x", "https://other.example/x"),
        ("x/y", "x/y"),
    ],
)
def test_only_this_servers_addresses_are_shortened(to, location):
    assert ask(make_app(), "GET", "/away", params={"to": to}).headers["location"] == location

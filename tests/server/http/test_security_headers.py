"""Headers on answers of every kind."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response

from lib.server.http.response_headers import SecurityHeaders
from support.asgi import ask


def make_app() -> SecurityHeaders:
    app = FastAPI()

    @app.get("/plain")
    def plain() -> str:
        return "here"

    @app.get("/own")
    def own() -> Response:
        headers = {"Content-Security-Policy": "default-src 'self'", "Cache-Control": "private, max-age=60"}
        return Response("here", headers=headers)

    @app.get("/ohif/{path:path}")
    def ohif(path: str) -> str:
        return "here"

    return SecurityHeaders(app)


def test_every_answer_gets_them_also_an_error():
    for path, status in (("/plain", 200), ("/missing", 404)):
        answer = ask(make_app(), "GET", path)
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
        assert answer.headers["cache-control"] == "no-store"
        assert "camera=()" in answer.headers["permissions-policy"]


def test_what_a_route_says_itself_stands_alone():
    headers = ask(make_app(), "GET", "/own").headers
    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers.get_list("cache-control") == ["private, max-age=60"]
    assert headers["x-content-type-options"] == "nosniff"


def test_ohifs_own_files_may_be_cached_and_are_not_isolated():
    headers = ask(make_app(), "GET", "/ohif/app.wasm").headers
    assert "cache-control" not in headers and headers["x-content-type-options"] == "nosniff"
    assert "cross-origin-embedder-policy" not in headers and "cross-origin-opener-policy" not in headers

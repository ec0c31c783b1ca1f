"""Route templates in place of paths."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from lib.server.observe.template import UNMATCHED, RouteTemplates
from support.asgi import ask


async def starlette_endpoint(_: Request) -> Response:
    return PlainTextResponse("here")


def make_app() -> FastAPI:
    router = APIRouter(prefix="/datastore")

    @router.get("/image")
    def image(image: str) -> None: ...

    @router.get("/{anything}")
    def anything(anything: str) -> None: ...

    app = FastAPI(routes=[Route("/page/{name}", starlette_endpoint), Mount("/static", PlainTextResponse("here"))])
    app.include_router(router)
    return app


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", "/datastore/image?image=doe_jane", "/datastore/image"),
        ("GET", "/datastore/doe_jane", "/datastore/{anything}"),
        ("DELETE", "/datastore/image", "/datastore/image"),
        ("GET", "/page/doe_jane", "/page/{name}"),
        ("GET", "/static/doe_jane", "/static"),
        ("GET", "/doe_jane", UNMATCHED),
    ],
)
def test_the_template_holds_nothing_of_the_path(method, path, template):
    app, found = make_app(), []
    templates = RouteTemplates(app.routes)

    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        path = get_route_path(scope)
        found.append(templates.of(dict(scope), path))
        await app(scope, receive, send)
        found.append(templates.of(scope, path))

    ask(observed, method, path)
    assert found == [template, template], "before the router and after it"

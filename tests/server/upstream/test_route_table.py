"""Every route of MONAI Label has its place in this server, for the same role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import monailabel.app
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from monailabel.endpoints.user.auth import RBAC

from lib.server.auth.roles import SEGMENTING
from lib.server.auth.users import current_user
from lib.server.upstream.faults import upstream_routers

UPSTREAM = [
    (method, context)
    for context in iter_route_contexts(monailabel.app.app.routes)
    if isinstance(context.original_route, APIRoute) and context.path not in ("/", "/favicon.ico")
    for method in sorted(context.methods or ())
]
IS_FOR_NO_ONE = re.compile(r"/(scoring|model|logs|reload|infer/wsi(_v2)?)\b")


@pytest.fixture(scope="module")
def app() -> FastAPI:
    repaired = FastAPI()
    for router in upstream_routers():
        repaired.include_router(router)
    return repaired


def _found(app: FastAPI, method: str, path: str) -> Any:
    concrete = re.sub(r"\{[^}]*\}", "x", path)
    contexts = (context for context in iter_route_contexts(app.routes) if method in (context.methods or ()))
    return next((context for context in contexts if context.path_regex.match(concrete)), None)


def _roles(dependant: Any) -> Iterator[str]:
    if isinstance(dependant.call, RBAC):
        yield dependant.call.roles
    elif dependant.call is current_user:  # the app replaces it
        yield SEGMENTING.roles
    for inner in dependant.dependencies:
        yield from _roles(inner)


def test_upstream_s_routes_are_those_that_the_mends_were_written_for():
    assert len(UPSTREAM) == 52


@pytest.mark.parametrize(
    ("method", "context"), UPSTREAM, ids=[f"{method} {context.path}" for method, context in UPSTREAM]
)
def test_a_route_is_for_the_same_role_as_upstream_s_or_for_no_one(app, method, context):
    ours = _found(app, method, context.path)
    assert ours is not None, "neither served nor refused"
    if IS_FOR_NO_ONE.match(context.path):
        assert ours.endpoint.__name__ == "refuse" and set(_roles(ours.dependant)) == {"monailabel-user"}
    else:
        assert ours.endpoint is not context.endpoint
        assert set(_roles(ours.dependant)) == set(_roles(context.dependant)) != set()

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest
from fastapi import APIRouter, HTTPException
from fastapi.routing import APIRoute
from monailabel.interfaces.exception import ImageNotFoundException

from lib.server.upstream.guarded_routes import Guard, UpstreamError, guarded_router

upstream = APIRouter(prefix="/things")


@upstream.get("/{name}")
async def get_thing(name: str, count: int = 1):
    return {"name": name, "count": count, "path": "/on/the/server"}


@upstream.put("/{name}")
async def put_thing(name: str):
    if name == "none":
        raise ImageNotFoundException("there is no such thing")
    before = time.monotonic()
    time.sleep(0.1)
    return before, time.monotonic()


def _endpoint(name: str, guard: Guard):
    (route,) = guarded_router([upstream], {name: guard}).routes
    assert isinstance(route, APIRoute) and not asyncio.iscoroutinefunction(route.endpoint)
    return route.endpoint


def test_arguments_are_checked_and_the_answer_is_cleaned():
    guard = Guard({"name": str.upper}, clean=lambda answer: {**answer, "path": None})
    assert _endpoint("GET /things/{name}", guard)(name="a", count=2) == {"name": "A", "count": 2, "path": None}


def test_what_a_check_raises_is_raised_before_upstream_s_function():
    def refuse(name: str) -> str:
        raise HTTPException(422, f"not {name}")

    with pytest.raises(HTTPException, match="not none"):
        _endpoint("PUT /things/{name}", Guard({"name": refuse}))(name="none")


def test_what_upstream_does_not_find_is_a_404():
    with pytest.raises(HTTPException) as caught:
        _endpoint("PUT /things/{name}", Guard())(name="none")
    assert (caught.value.status_code, caught.value.detail) == (404, "there is no such thing")


def test_requests_that_write_take_turns():
    put = _endpoint("PUT /things/{name}", Guard())
    spans: list[tuple[float, float]] = []
    threads = [threading.Thread(target=lambda: spans.append(put(name="a"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans.sort()
    assert len(spans) == 3 and all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ({"DELETE /things/{name}": Guard()}, "no route DELETE /things/{name}"),
        ({"GET /things/{name}": Guard({"nam": str})}, "get_thing has no argument nam"),
    ],
)
def test_a_guard_that_guards_nothing_is_an_error(guards, said):
    with pytest.raises(UpstreamError, match=said):
        guarded_router([upstream], guards)

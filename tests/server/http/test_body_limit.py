"""Bounds on a request's body, in the app; with a real server see ``tests/integration/test_upload_limits.py``."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, File, Request, UploadFile
from starlette.requests import ClientDisconnect

from lib.server.http.body_check import BodyLimit
from support.asgi import ask

LIMIT = 2**20


def make_app(max_seconds: float = 60, max_bytes: int = LIMIT) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BodyLimit, max_bytes=max_bytes, max_seconds=max_seconds)

    @app.put("/form")
    def form(file: UploadFile = File()) -> int:  # noqa: B008 - as upstream's routes have it
        return file.size or 0

    @app.put("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.get("/none")
    def none() -> str:
        return "here"

    return app


async def chunks(size: int):
    for _ in range(size // 2**16):
        yield bytes(2**16)


@pytest.mark.parametrize("path", ["/raw", "/form"])
def test_an_announced_body_that_is_too_large_is_refused(path):
    kwargs = {"files": {"file": bytes(LIMIT)}} if path == "/form" else {"content": bytes(LIMIT + 1)}
    answer = ask(make_app(), "PUT", path, **kwargs)
    assert answer.status_code == 413
    assert answer.json() == {"detail": "the request is larger than the 1 MiB that are allowed"}


def test_chunks_are_counted():
    assert ask(make_app(), "PUT", "/raw", content=chunks(LIMIT)).json() == LIMIT
    answer = ask(make_app(), "PUT", "/raw", content=chunks(LIMIT + 2**16))
    assert answer.status_code == 413 and "1 MiB" in answer.json()["detail"]


def test_what_fits_arrives_whole():
    assert ask(make_app(), "PUT", "/raw", content=bytes(LIMIT)).json() == LIMIT
    assert ask(make_app(), "PUT", "/form", files={"file": bytes(LIMIT - 1000)}).json() == LIMIT - 1000
    assert ask(make_app(), "GET", "/none").json() == "here"


def test_a_body_that_does_not_come_is_answered_408():
    async def stalled():
        yield b"some"
        await asyncio.sleep(60)

    answer = ask(make_app(max_seconds=0.2), "PUT", "/raw", content=stalled())
    assert answer.status_code == 408 and answer.headers["connection"] == "close"
    assert answer.json() == {"detail": "the request did not arrive completely within 0.2 seconds"}


def test_a_body_that_comes_drop_by_drop_does_not_get_longer():
    async def drops():
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    assert ask(make_app(max_seconds=0.3), "PUT", "/raw", content=drops()).status_code == 408


def test_after_the_body_waiting_for_the_client_to_go_takes_as_long_as_it_takes():
    left = []

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"all"
        left.append(await receive())

    async def run():
        messages = [{"type": "http.request", "body": b"all", "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await asyncio.sleep(0.3)
            return {"type": "http.disconnect"}

        limited = BodyLimit(app, max_bytes=LIMIT, max_seconds=0.1)
        await limited({"type": "http", "headers": []}, receive, None)

    asyncio.run(run())
    assert left == [{"type": "http.disconnect"}]


def test_a_client_that_goes_during_the_upload_is_no_time_out():
    async def app(scope, receive, send):
        with pytest.raises(ClientDisconnect):
            await Request(scope, receive).body()

    async def run():
        messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"half", "more_body": True}]

        async def receive():
            return messages.pop()

        await BodyLimit(app, max_bytes=LIMIT, max_seconds=60)({"type": "http", "headers": []}, receive, None)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_what_is_read_as_a_whole_is_at_most_a_mebibyte(kind):
    large = make_app(max_bytes=4 * LIMIT)
    headers = {"Content-Type": kind} if kind else {}
    assert ask(large, "PUT", "/raw", headers=headers, content=bytes(2**20)).json() == 2**20
    assert ask(large, "PUT", "/raw", headers=headers, content=bytes(2**20 + 1)).status_code == 413
    parts = {"Content-Type": "Multipart/related; boundary=b"}
    assert ask(large, "PUT", "/raw", headers=parts, content=bytes(3 * LIMIT)).json() == 3 * LIMIT

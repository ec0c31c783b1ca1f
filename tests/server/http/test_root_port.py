"""A further port of a server, whose root is a prefix's: with uvicorn in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from lib.server.http.connections import Connections, watch_connections
from lib.server.http.root_port import RootPort, listen_also_on
from support.server_process import free_port


async def app(scope, receive, send):
    """Answers the path and the raw path that it was asked for; after a second for those with ``slow``."""
    if "slow" in scope["path"]:
        await asyncio.sleep(1)
    body = f"{scope['path']} {scope['raw_path'].decode()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(further: int, connections: Connections | None = None) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server on two ports, and its first one."""
    first = free_port()
    config = uvicorn.Config(RootPort(app, further, "/below"), port=first, lifespan="off", log_config=None)
    server = uvicorn.Server(config)

    async def serve() -> None:
        if connections is not None:
            watch_connections(asyncio.get_running_loop(), connections)
        listen_also_on(further)
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield server, first
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def get(port: int, path: str) -> str:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).text


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_one_server_answers_on_both_ports_and_knows_which_was_asked():
    further = free_port()
    with serving(further) as (_, first):
        assert get(first, "/a%20b?c=d") == "/a b /a%20b"
        assert get(further, "/a%20b?c=d") == "/below/a b /below/a%20b"
        assert get(further, "/") == "/below/ /below/"


def test_both_ports_are_closed_when_the_server_stops_and_what_was_asked_is_answered():
    further = free_port()
    with serving(further) as (server, first):
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(get(further, "/slow")))
        asking.start()
        time.sleep(0.3)
        server.should_exit = True
        asking.join(20)
    assert answers == ["/below/slow /below/slow"]
    assert not is_open(first) and not is_open(further)


def test_connections_of_both_ports_are_counted_together():
    further, connections = free_port(), Connections(2, 2)
    with (
        serving(further, connections) as (_, first),
        socket.create_connection(("127.0.0.1", first)),
        socket.create_connection(("127.0.0.1", further)),
    ):
        time.sleep(0.3)
        assert len(connections._all) == 2
        assert get(further, "/").startswith("/below"), "a silent one makes room"


def test_a_port_that_is_taken_ends_the_start(monkeypatch: pytest.MonkeyPatch):
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.append(args.exc_type))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with serving(taken.getsockname()[1]) as (server, first):
            pass
        assert not server.started and not is_open(first)

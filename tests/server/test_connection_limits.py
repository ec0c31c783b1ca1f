"""Connections that are kept within bounds: by uvicorn's own protocol in this process, and by themselves."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from lib.server.http import connections as module
from lib.server.http.connections import (
    Connection,
    Connections,
    raise_file_limit,
    room_for_connections,
    trusted_proxies,
    watch_connections,
)

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def app(scope, receive, send):
    """Takes a second for ``/slow``, and answers 10 MB for ``/large``; reads no body but for ``/read``."""
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    if scope["path"] == "/read":
        while (await receive()).get("more_body"):
            pass
    body = bytes(10_000_000 if scope["path"] == "/large" else 2)
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(connections: Connections) -> Iterator[int]:
    """A server whose connections are watched; its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))

    async def serve() -> None:
        watch_connections(asyncio.get_running_loop(), connections)
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "HEAD_S", 0.8)
    monkeypatch.setattr(module, "STALLED_S", 2.0)
    monkeypatch.setattr(module, "_POLL_EVERY_S", 0.05)


def closed_after(client: socket.socket, seconds: float, keep_on: Callable[[], None] = lambda: None) -> float | None:
    """After how many seconds the server closed a connection; None if it did not within those."""
    client.settimeout(0.1)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            keep_on()
            if not client.recv(1 << 16):
                return time.monotonic() - started
        except TimeoutError:
            pass
        except OSError:
            return time.monotonic() - started
    return None


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@pytest.mark.parametrize("first", [b"", b"GET", HEAD], ids=["silent", "word", "lines"])
def test_a_head_that_does_not_come_is_not_waited_for(first):
    with serving(Connections(50, 50)) as port, connected(port) as client:
        client.sendall(first)
        seconds = closed_after(client, 5)
        assert seconds is not None and 0.6 < seconds < 4


def test_a_head_that_comes_drop_by_drop_does_not_get_longer():
    with serving(Connections(50, 50)) as port, connected(port) as client:
        client.sendall(HEAD)
        assert closed_after(client, 5, lambda: client.sendall(b"x: y\r\n")) is not None


def test_a_refused_body_that_does_not_end_is_not_waited_for():
    with serving(Connections(50, 50)) as port, connected(port) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        seconds = closed_after(client, 8, lambda: client.sendall(b"x"))
        assert seconds is not None and seconds > 1.5


@pytest.mark.slow
def test_an_answer_that_is_not_read_is_not_waited_for():
    connections = Connections(50, 50)
    with serving(connections) as port, connected(port) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        assert len(connections._all) == 1
        time.sleep(4)
        assert not connections._all


@pytest.mark.slow
def test_work_is_waited_for_and_a_connection_that_is_used_stays():
    with serving(Connections(50, 50)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/slow").status_code == 200
        with connected(port) as steady:
            for _ in range(8):
                steady.sendall(HEAD + b"\r\n")
                answer = b""
                while not answer.endswith(b"\x00\x00"):
                    answer += steady.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200")
                time.sleep(0.3)


def test_an_upload_takes_its_time():
    with serving(Connections(50, 50)) as port, connected(port) as client:
        client.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.3)
            client.sendall(b"x")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_new_client_takes_the_place_of_those_that_are_silent(monkeypatch):
    monkeypatch.setattr(module, "HEAD_S", 60.0)
    connections = Connections(20, 20)
    with serving(connections) as port:
        with connected(port) as working:
            working.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.3)
            silent = [connected(port) for _ in range(100)]
            started = time.monotonic()
            assert httpx.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 200
            assert time.monotonic() - started < 1
            assert len(connections._all) <= 20
            assert working.recv(1000).startswith(b"HTTP/1.1 200"), "what is worked on stays"
        for client in silent:
            client.close()


class Cycle:
    """As much of uvicorn's request as is looked at."""

    def __init__(self, *, response_complete: bool, more_body: bool = False) -> None:
        self.response_complete, self.more_body = response_complete, more_body


class Transport(asyncio.Transport):
    """A connection from some address."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


class Protocol(asyncio.Protocol):
    """As much of uvicorn's as is looked at."""

    def __init__(self, cycle: Cycle | None) -> None:
        self.cycle = cycle


def connect(connections: Connections, address: str, cycle: Cycle | None = None) -> Connection:
    connection = Connection(Protocol(cycle), connections)
    connection.connection_made(Transport(address))
    return connection


WORKED_ON, RECEIVING = Cycle(response_complete=False), Cycle(response_complete=False, more_body=True)


def test_one_address_has_a_share():
    connections = Connections(100, 5, ["10.0.0.9"])
    greedy = [connect(connections, "10.0.0.1") for _ in range(8)]
    assert [one.transport.aborted for one in greedy] == [True] * 3 + [False] * 5
    for address in ("127.0.0.1", "::1", "10.0.0.9"):
        assert not any(connect(connections, address).transport.aborted for _ in range(8))
    busy = [connect(connections, "10.0.0.2", WORKED_ON) for _ in range(6)]
    assert [one.transport.aborted for one in busy] == [False] * 5 + [True]
    busy[0].connection_lost(None)
    assert not connect(connections, "10.0.0.2").transport.aborted


def test_room_is_made_by_who_waits_first_and_by_the_address_that_has_most():
    connections = Connections(6, 100)
    receiving, other = connect(connections, "10.0.0.3", RECEIVING), connect(connections, "10.0.0.2")
    greedy = [connect(connections, "10.0.0.1") for _ in range(3)]
    worked_on = connect(connections, "10.0.0.1", WORKED_ON)
    for aborted in range(3):
        assert not connect(connections, f"10.0.1.{aborted}", WORKED_ON).transport.aborted
        assert [one.transport.aborted for one in greedy] == [True] * (aborted + 1) + [False] * (2 - aborted)
    assert not other.transport.aborted
    connect(connections, "10.0.1.4", WORKED_ON)
    assert other.transport.aborted and not receiving.transport.aborted
    connect(connections, "10.0.1.5", WORKED_ON)
    assert receiving.transport.aborted and not worked_on.transport.aborted
    assert connect(connections, "10.0.1.6").transport.aborted, "all others are worked on"


def test_the_limit_of_files_is_raised_and_leaves_a_reserve(monkeypatch):
    set_limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_limits.append(limits))
    for limits, expected in (
        ((256, 4096), [(4096, 4096)]),
        ((256, resource.RLIM_INFINITY), [(65536, resource.RLIM_INFINITY)]),
        ((4096, 4096), []),
        ((1 << 20, 1 << 20), []),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limits=limits: limits)
        raise_file_limit()
        assert set_limits == expected
        set_limits.clear()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    assert 16 <= room_for_connections() <= 192
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 20, 1 << 20))
    assert room_for_connections() == module.MAX_CONNECTIONS


@pytest.mark.parametrize(
    ("setting", "trusted", "others"),
    [
        ("10.0.0.9, 192.168.1.1", ["10.0.0.9", "192.168.1.1"], ["10.0.0.8"]),
        ("10.0.0.0/8,2001:db8::/32", ["10.1.2.3", "2001:db8::1"], ["11.0.0.1", "2001:db9::1"]),
        ("*", ["1.2.3.4", "::2"], []),
        ("", [], ["1.2.3.4", ""]),
    ],
)
def test_proxies_are_known_as_uvicorn_knows_them(monkeypatch, setting, trusted, others):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", setting)
    proxies = trusted_proxies()
    assert [address for address in (*trusted, *others) if address in proxies] == trusted

"""The front before several servers, by fronts.caddy: who stays where, and what happens when one is gone."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from support.compose_stack import DEPLOY, ComposeStack, compose_stack, require_caddy, start_front
from support.server_process import free_port

NAME = "sam.hospital.example"
SNAP = "snap.hospital.example"
ADDRESSES = [f"127.0.0.{last}" for last in range(2, 14)]


class _EndsItsConnections(ThreadingHTTPServer):
    def server_activate(self) -> None:
        super().server_activate()
        self.open: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.open.append(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in self.open:
            with contextlib.suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)


class Server:
    """Tells its name and what came; echoes what comes after an upgrade; can be gone, and come back.

    ``/break`` reads the request and leaves without an answer.
    """

    def __init__(self, name: str) -> None:
        self.name, self.port = name, free_port()
        self.paths: list[str] = []
        self.is_ready = True
        self._http: _EndsItsConnections | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/health_check/":
                    is_known = self.headers["Host"] == NAME
                    self._answer(b"{}", 200 if server.is_ready and is_known else 503)
                    return
                server.paths.append(self.path)
                if self.path == "/break":
                    self.close_connection = True
                elif "Upgrade" in self.headers:
                    self._echo()
                else:
                    self._answer(json.dumps({"server": server.name, "path": self.path}).encode())

            def do_POST(self) -> None:
                server.paths.append(self.path)
                left = received = int(self.headers["Content-Length"])
                while left and (piece := self.rfile.read1(min(left, 65536))):
                    left -= len(piece)
                if self.path == "/break":
                    self.close_connection = True
                else:
                    self._answer(json.dumps({"server": server.name, "received": received - left}).encode())

            def _answer(self, body: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Set-Cookie", "of_server=1; Path=/")
                self.end_headers()
                self.wfile.write(body)

            def _echo(self) -> None:
                self.send_response(101)
                self.send_header("Connection", "Upgrade")
                self.send_header("Upgrade", "websocket")
                self.end_headers()
                while piece := self.rfile.read1(65536):
                    self.wfile.write(server.name.encode() + b":" + piece)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler

    def start(self) -> None:
        self.stop()
        self._http = _EndsItsConnections(("127.0.0.1", self.port), self._handler)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[ComposeStack, dict[str, Server]]]:
    require_caddy()
    servers = {name: Server(name) for name in ("one", "two")}
    with ExitStack() as ends:
        for server in servers.values():
            server.start()
            ends.callback(server.stop)
        stack = ends.enter_context(compose_stack(tmp_path_factory.mktemp("fronts"), SAM_HOST=NAME))
        override = {
            "SERVER": " ".join(f"127.0.0.1:{server.port}" for server in servers.values()),
            "FRONT_SERVERS": str(DEPLOY / "caddy" / "fronts.caddy"),
            "SAM_ITKSNAP_HOST": SNAP,
            "FRONT_MORE": str(DEPLOY / "caddy" / "itksnap.caddy"),
        }
        start_front(stack, **override)
        yield stack, servers


@pytest.fixture
def servers(running) -> dict[str, Server]:
    """Both are there, and the front knows."""
    _, servers = running
    for server in servers.values():
        server.is_ready = True
        server.start()
    until(lambda: {at(running, address) for address in ADDRESSES} == {"one", "two"})
    return servers


def until(holds, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.2)


@contextmanager
def client(running, address: str = "127.0.0.1", name: str = NAME) -> Iterator[httpx.Client]:
    """A client on an address of this machine that finds the front by its name, and keeps cookies."""
    stack, _ = running
    trust = ssl.create_default_context(cafile=str(stack.volume("caddy") / "caddy/pki/authorities/local/root.crt"))
    transport = httpx.HTTPTransport(verify=trust, local_address=address)
    base = f"https://127.0.0.1:{stack.ports['front']}"
    with httpx.Client(base_url=base, headers={"Host": name}, transport=transport, timeout=30) as made:
        made.event_hooks["request"] = [lambda request: request.extensions.update(sni_hostname=name)]
        yield made


def at(running, address: str, path: str = "/datastore/", method: str = "GET") -> str:
    """The server that a client without cookies gets, on an address."""
    with client(running, address) as program:
        content = b"x" if method == "POST" else None
        return program.request(method, path, content=content).json()["server"]


def cookie_of(answer: httpx.Response) -> str | None:
    found = [one for one in answer.headers.get_list("set-cookie") if one.startswith("sam_server=")]
    return found[0] if found else None


def test_who_opens_a_page_stays_by_a_cookie_even_on_another_address(running, servers):
    seen = set()
    for _ in range(12):
        with client(running) as browser:
            page = browser.get("/ohif/")
            assert "of_server" in browser.cookies, "the server's own cookies stay as they are"
            said = cookie_of(page)
            assert said.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
            name = page.json()["server"]
            seen.add(name)
        cookie = {"Cookie": said.partition(";")[0]}
        for address in ADDRESSES[:4]:
            with client(running, address) as moved:
                for path in ("/info/", "/ohif/app.js", "/sam/"):
                    answer = moved.get(path, headers=cookie)
                    assert (answer.json()["server"], cookie_of(answer)) == (name, None)
                assert moved.post("/infer/sam_tiny", content=b"x", headers=cookie).json()["server"] == name
    assert seen == {"one", "two"}, "those who open pages are divided"


def test_a_program_without_cookies_stays_by_its_address_and_gets_none(running, servers):
    """An image is sent, and its mask asked for by another connection."""
    for address in ADDRESSES:
        assert len({at(running, address, "/segment_input_image/", way) for way in ("POST", "GET", "POST", "GET")}) == 1
    with client(running) as program:
        assert cookie_of(program.get("/datastore/")) is None
    assert {at(running, address) for address in ADDRESSES} == {"one", "two"}


def test_itk_snap_stays_by_its_address(running, servers):
    with client(running, name=SNAP) as snap:
        answers = [snap.get(path).json() for path in ("/status", "/start_session", "/process_point_interaction/1")]
    assert len({answer["server"] for answer in answers}) == 1
    assert answers[0]["path"] == "/itksnap/status"


def test_when_a_server_is_gone_its_clients_go_on_at_the_other_and_stay_there_by_their_cookie(running, servers):
    with ExitStack() as ends:
        browsers = [ends.enter_context(client(running)) for _ in range(12)]
        of_one = [browser for browser in browsers if browser.get("/sam/").json()["server"] == "one"]
        addresses = [address for address in ADDRESSES if at(running, address) == "one"]
        servers["one"].stop()
        time.sleep(0.2)
        assert of_one[0].get("/info/").json()["server"] == "two", "what has no body gets an answer at once"
        for browser in of_one:
            answers = [browser.post("/infer/sam_tiny", content=b"x" * 300_000) for _ in range(2)]
            assert answers[0].status_code in (200, 502)
            assert answers[1].json() == {"server": "two", "received": 300_000}
        assert {at(running, address, method="POST") for address in addresses} == {"two"}
        servers["one"].start()
        until(lambda: at(running, addresses[0]) == "one")
        assert {browser.get("/info/").json()["server"] for browser in of_one} == {"two"}, "their sessions are there now"


def test_a_server_that_is_not_ready_gets_nobody(running, servers):
    servers["two"].is_ready = False
    until(lambda: {at(running, address) for address in ADDRESSES} == {"one"})


def test_what_reached_a_server_is_sent_to_no_second_one_unless_it_changes_nothing(running, servers):
    def broken() -> int:
        return sum(server.paths.count("/break") for server in servers.values())

    with client(running) as program:
        assert program.post("/break", content=b"x").status_code == 502
        assert broken() == 1
        program.get("/break")
        assert broken() > 2


def test_an_upgraded_connection_stays_open_both_ways(running, servers):
    stack, _ = running
    trust = ssl.create_default_context(cafile=str(stack.volume("caddy") / "caddy/pki/authorities/local/root.crt"))
    with contextlib.closing(
        trust.wrap_socket(
            socket.create_connection(("127.0.0.1", stack.ports["front"]), timeout=20), server_hostname=NAME
        )
    ) as connection:
        head = f"GET /live HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 101 " in connection.recv(4096)
        names = set()
        for text in (b"a", b"b"):
            connection.sendall(text)
            name, _, echoed = connection.recv(4096).partition(b":")
            names.add(name)
            assert echoed == text
            time.sleep(3)  # longer than the front keeps a silent connection that was not upgraded
        assert len(names) == 1


def test_a_long_upload_is_passed_on_whole(running, servers):
    def slowly() -> Iterator[bytes]:
        for _ in range(8):
            yield b"x" * 4_000_000
            time.sleep(0.3)

    with client(running) as program:
        headers = {"Content-Length": "32000000"}
        answer = program.post("/images/", content=slowly(), headers=headers)
        assert answer.json()["received"] == 32_000_000

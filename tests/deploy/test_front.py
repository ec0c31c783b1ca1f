"""The front of the stack: Caddy as compose.yaml starts it, before a small server that tells what came."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.compose_stack import DEPLOY, ComposeStack, compose_stack, require_caddy, start_front

NAME = "sam.hospital.example"
SNAP = "snap.hospital.example"


class Behind:
    """A server on the port where the front expects the app's.

    ``/drip`` sends its first byte and waits for ``may_end``; ``/work`` works until its client leaves.
    """

    def __init__(self, port: int) -> None:
        self.may_end, self.first_bytes, self.has_left = (threading.Event() for _ in range(3))
        self.received = 0
        behind = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen = {**self.headers, "path": self.path}
                self._answer(json.dumps(seen).encode())  # also as the answer to the health check

            def do_POST(self) -> None:
                left = int(self.headers["Content-Length"])
                while left and (piece := self.rfile.read1(min(left, 65536))):
                    left -= len(piece)
                    behind.received += len(piece)
                    behind.first_bytes.set()
                if left or (self.path == "/work" and not self.rfile.read1(1)):
                    behind.has_left.set()
                    self.close_connection = True
                else:
                    self._answer(b"whole")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.path == "/drip":
                    self.wfile.write(body[:1])
                    self.wfile.flush()
                    behind.may_end.wait(20)
                    body = body[1:]
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)


@contextmanager
def running_behind(port: int) -> Iterator[Behind]:
    behind = Behind(port)
    thread = threading.Thread(target=behind.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield behind
    finally:
        behind.may_end.set()
        behind.http.shutdown()
        behind.http.server_close()
        thread.join(10)


@contextmanager
def running_front(folder: Path, **variables: str) -> Iterator[tuple[ComposeStack, Behind]]:
    require_caddy()
    with (
        compose_stack(folder, SAM_HOST=NAME, **variables) as stack,
        running_behind(stack.ports["server"]) as behind,
    ):
        start_front(stack)
        yield stack, behind


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[ComposeStack, Behind]]:
    more = {"SAM_ITKSNAP_HOST": SNAP, "FRONT_MORE": str(DEPLOY / "caddy" / "itksnap.caddy")}  # as an override has it
    with ExitStack() as ends:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in more.items():
                patch.setenv(name, value)
            running = ends.enter_context(running_front(tmp_path_factory.mktemp("front"), SAM_MAX_UPLOAD="3MiB"))
        yield running


@pytest.fixture
def stack(both) -> ComposeStack:
    return both[0]


@pytest.fixture
def behind(both) -> Behind:
    return both[1]


@pytest.fixture
def trust(stack) -> ssl.SSLContext:
    """What a machine has that was given the root of Caddy's own CA."""
    return ssl.create_default_context(cafile=str(stack.volume("caddy") / "caddy/pki/authorities/local/root.crt"))


@pytest.fixture
def ask(stack, trust) -> Iterator[httpx.Client]:
    """A client that finds the front by its name."""
    with httpx.Client(
        base_url=f"https://127.0.0.1:{stack.ports['front']}", headers={"Host": NAME}, verify=trust, timeout=30
    ) as client:
        client.event_hooks["request"] = [lambda request: request.extensions.update(sni_hostname=NAME)]
        yield client


def tls(stack: ComposeStack, trust: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", stack.ports["front"]), timeout=20)
    return trust.wrap_socket(raw, server_hostname=NAME)


def test_the_server_sees_the_name_and_the_client_and_believes_no_one_else(behind, ask):
    spoofed = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}
    answer = ask.get("/", headers=spoofed)
    seen = answer.json()
    assert seen["Host"] == NAME
    assert (seen["X-Forwarded-For"], seen["X-Forwarded-Proto"]) == ("127.0.0.1", "https")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "alt-svc" not in answer.headers  # only TCP is published


def test_itk_snap_has_a_name_of_its_own_at_whose_root_its_protocol_is(behind, ask):
    def of_snap(request: httpx.Request) -> None:
        request.extensions.update(sni_hostname=SNAP)

    ask.event_hooks["request"].append(of_snap)
    for path, passed_on in (("/status", "/itksnap/status"), ("/start_session?a=1", "/itksnap/start_session?a=1")):
        seen = ask.get(path, headers={"Host": SNAP}).json()
        assert (seen["path"], seen["Host"]) == (passed_on, NAME), "the server knows the other name alone"


def test_another_name_is_misdirected(behind, ask):
    assert ask.get("/", headers={"Host": "evil.example"}).status_code == 421


def test_a_long_head_is_refused(behind, ask):
    assert ask.get("/", headers={"Cookie": "x" * 14_000}).status_code == 200
    assert ask.get("/", headers={"Cookie": "x" * 40_000}).status_code == 431


def test_an_answer_is_passed_on_as_it_comes(behind, ask):
    with ask.stream("GET", "/drip") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"{"
        behind.may_end.set()
        assert b"".join(pieces).endswith(b"}")


def test_a_body_is_passed_on_as_it_comes_and_its_end_too(behind, stack, trust):
    with tls(stack, trust) as connection:
        head = f"POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 100_000)
        assert behind.first_bytes.wait(10)
    assert behind.has_left.wait(10)


def test_the_server_is_told_when_a_client_leaves_while_it_works(behind, stack, trust):
    behind.has_left.clear()
    with tls(stack, trust) as connection:
        connection.sendall(f"POST /work HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2\r\n\r\nab".encode())
        assert not behind.has_left.wait(0.5)
    assert behind.has_left.wait(5)


def test_a_body_that_is_too_large_does_not_arrive(behind, ask):
    assert ask.post("/", content=b"x" * (3 << 20)).text == "whole"
    behind.received = 0
    assert ask.post("/", content=b"x" * (9 << 20)).status_code in (413, 502)
    assert behind.received <= 3 << 20


def test_its_log_names_no_patient_and_holds_no_key(stack, ask):
    """Keycloak does not run, so it has something to complain of."""
    search = ask.get("/keycloak/studies?PatientName=Doe", headers={"Authorization": "Bearer sam_secret"})
    assert search.status_code == 502
    log = stack.log("front").read_text()
    assert '"status":502' in log and "Doe" not in log and "sam_secret" not in log


def make_certificate(folder: Path) -> Path:
    """A certificate and key as a hospital gives them, in the places that .env.example names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A hospital's CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "tls.crt"


def test_the_hospitals_own_certificate(tmp_path):
    given = make_certificate(tmp_path / "certificates")
    files = f"{given} {given.with_suffix('.key')}"
    with running_front(tmp_path / "stack", SAM_TLS=files) as (stack, _):
        with tls(stack, ssl.create_default_context(cafile=str(given))) as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown == ssl.PEM_cert_to_DER_cert(given.read_text())
        assert not (stack.volume("caddy") / "caddy" / "certificates").exists()  # nor made one of its own

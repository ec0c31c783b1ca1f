"""Redirects of a DICOMweb server, and its answers to what is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lib.server.mends.dicomweb_session import DicomWebSession, DicomWebStatusError


@contextmanager
def answering(location: str | None, seen: list[tuple[str, str | None]]) -> Iterator[str]:
    """A server that redirects from ``/from``, and answers all else; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(302 if self.path == "/from" else 200)
            if self.path == "/from":
                self.send_header("Location", str(location))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_redirect_to_another_server_is_not_followed_and_gets_no_login():
    elsewhere: list[tuple[str, str | None]] = []
    with (
        answering(None, elsewhere) as other,
        answering(f"{other}/to", []) as archive,
        DicomWebSession(("user", "secret"), 5) as session,
        pytest.raises(DicomWebStatusError) as refused,
    ):
        session.request("GET", f"{archive}/from")
    assert refused.value.status == 302 and elsewhere == []


@pytest.mark.parametrize("location", ["/to", "to?x=1"])
def test_a_redirect_within_the_server_is_followed(location):
    seen: list[tuple[str, str | None]] = []
    with answering(location, seen) as archive, DicomWebSession(("user", "secret"), 5) as session:
        assert session.request("GET", f"{archive}/from").status_code == 200
    assert [path for path, _ in seen] == ["/from", "/" + location.lstrip("/")] and all(login for _, login in seen)

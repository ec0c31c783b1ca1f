"""A DICOMweb server of a few lines, which notes what it was sent, and does what a real one cannot be made to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ONE_SERIES = json.dumps(
    [
        {
            "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
            "0020000E": {"vr": "UI", "Value": ["1.2.3.4"]},
            "00080060": {"vr": "CS", "Value": ["CT"]},
        }
    ]
).encode()


@dataclass
class Answer:
    """What it answers.

    Args:
        status: HTTP status.
        body: Sent in pieces, each after its number of seconds.
        headers: Besides those of the connection.
    """

    status: int = 200
    body: list[tuple[float, bytes]] = field(default_factory=lambda: [(0, ONE_SERIES)])
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/dicom+json"})


@dataclass
class StandIn:
    """The running server.

    Args:
        url: Its DICOMweb root.
        answer: From a path with its query; may be changed at any time.
        requests: Method, path and headers of what came.
        released: Set this to let it go on where it waits.
    """

    url: str
    answer: Callable[[str], Answer] = lambda path: Answer()
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running_stand_in() -> Iterator[StandIn]:
    """Start it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            stand_in.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            answer = stand_in.answer(self.path)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for seconds, piece in answer.body:
                stand_in.released.wait(seconds)
                self.wfile.write(piece)
                self.wfile.flush()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in = StandIn(f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.released.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""The real MONAI Label server as a process of its own, on a free port, that can reach nothing else."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

REPOSITORY = Path(__file__).resolve().parents[2]

REFUSE_OUTBOUND = '''
"""Refuses every connection that leaves this machine, and every look-up of a name that is not its own."""
import ipaddress
import os
import sys


def _is_local(host):
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
        is_of_test = address in ipaddress.ip_network(os.environ.get("SAM_TEST_NETWORK", "127.0.0.0/8"))
        return is_of_test or address.is_loopback or address.is_unspecified
    except ValueError:
        return False


def _refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        print(f"OUTBOUND REFUSED: {event} {host}", file=sys.stderr, flush=True)
        raise ConnectionRefusedError(f"outbound connections are refused: {host}")


sys.addaudithook(_refuse)
'''


@dataclass
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    results: Path
    studies: Path
    audit: Path

    def get(self, path: str, **kwargs) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, **kwargs) -> requests.Response:
        return requests.post(self.url + path, timeout=120, **kwargs)

    def segment(self, content: bytes, sam_input: str | None, name: str = "image", **kwargs) -> requests.Response:
        data = {} if sam_input is None else {"sam_input": sam_input}
        return self.post("/segment_input_image/", files={"file": (name, content)}, data=data, **kwargs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SAM_APP = REPOSITORY / "apps" / "sam_app"


def command(studies: Path | str, port: int, *conf: str, app: Path = SAM_APP, flags: Sequence[str] = ()) -> list[str]:
    """``monailabel start_server`` of this repository's app, or of another; ``studies`` is a folder or a URL."""
    arguments = ["start_server", "--app", str(app), "--studies", str(studies)]
    pairs = zip(conf[::2], conf[1::2], strict=True)
    options = [word for key, value in pairs for word in ("--conf", key, value)]
    return [
        sys.executable, "-m", "monailabel.main", *arguments,
        "--host", "127.0.0.1", "--port", str(port), *options, *flags,
    ]  # fmt: skip


@contextmanager
def running_server(
    folder: Path,
    *conf: str,
    app: Path = SAM_APP,
    studies: Path | str | None = None,
    variables: dict[str, str] | None = None,
    flags: Sequence[str] = (),
    open_files: int | None = None,
) -> Iterator[Server]:
    """Start a server that can reach nothing but this machine, wait until it is healthy, stop it at the end.

    ``open_files`` is how many it may have (``ulimit -n``).
    """
    port = free_port()
    studies = studies or folder / "studies"
    hooks = folder / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "sitecustomize.py").write_text(REFUSE_OUTBOUND)
    environment = {
        **os.environ,
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        **(variables or {}),
        "PYTHONPATH": str(hooks),
        "PYTHONFAULTHANDLER": "1",
    }
    log = folder / "server.log"
    names = {"results": "results", "audit_log": "audit.jsonl", "embeddings": "embeddings"}
    places = [word for key, name in names.items() for word in (key, str(folder / name))]
    if (workers := os.environ.get("SAM_TEST_WORKERS")) and app == SAM_APP and "workers" not in conf:
        places += ["workers", workers]  # all tests of servers hold with workers, too
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(studies, port, *places, *conf, app=app, flags=flags),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    if open_files is not None:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
    server = Server(f"http://127.0.0.1:{port}", process, log, folder / "results", studies, folder / "audit.jsonl")
    try:
        _wait_until_healthy(server, "/health_check/" if app.name == SAM_APP.name else "/info/")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_until_healthy(server: Server, path: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if server.get(path).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    else:
        server.process.send_signal(signal.SIGABRT)  # the log then says where each thread was
        server.process.wait(10)
    pytest.fail("the server did not become healthy:\n" + server.log.read_text(errors="replace")[-9000:])

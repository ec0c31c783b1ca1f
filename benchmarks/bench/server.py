"""The real server as a process of its own on a free port of this machine, and the requests that clients send to it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nrrd
import numpy as np
import psutil
from PIL import Image

_STARTUP_S = 300.0
_STOP_S = 20.0
_POLL_S = 0.05
_IDLE_S, _IDLE_PERCENT = 0.5, 15.0
REQUEST_S = 600.0
"""After which a request is given up."""


class ServerError(RuntimeError):
    """A server did not come up, or did not answer as it should."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request.

    Args:
        milliseconds: From sending to the last byte.
        content: The body.
        headers: In lower case.
    """

    milliseconds: float
    content: bytes
    headers: dict[str, str]

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds by stage, of ``Server-Timing``; empty if the answer has none."""
        return server_timing(self.headers.get("server-timing", ""))

    @property
    def labels(self) -> np.ndarray:
        """``(i, j, k)`` labels of an answer that is an NRRD file."""
        stream = io.BytesIO(self.content)
        header = nrrd.read_header(stream)
        labels: np.ndarray = nrrd.read_data(header, stream)
        return labels


def server_timing(text: str) -> dict[str, float]:
    """The header ``Server-Timing`` (W3C): ``name;dur=1.5, other;desc="…";dur=2`` to milliseconds by name.

    Metrics without a duration are 0, and of a name that is there twice the durations are added.
    """
    stages: dict[str, float] = {}
    for metric in text.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        if not name:
            continue
        duration = next((part[4:] for part in parameters if part.lower().startswith("dur=")), "0")
        stages[name] = stages.get(name, 0.0) + float(duration.strip('"'))
    return stages


class Client:
    """One user: keeps its connection and its cookie, as a viewer does.

    Args:
        url: Of the server.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=REQUEST_S, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: str) -> Answer:
        """GET; raises :class:`ServerError` unless it is answered 200."""
        return self._timed("GET", path, params=query)

    def post(self, path: str, content: dict[str, Any]) -> Answer:
        """POST of JSON; errors as of :meth:`get`."""
        return self._timed("POST", path, json=content)

    def delete(self, path: str) -> Answer:
        """DELETE; errors as of :meth:`get`."""
        return self._timed("DELETE", path)

    def click(
        self, model: str, image: str, foreground: Sequence[Sequence[int]], *, output: str = "image", **params: Any
    ) -> Answer:
        """A click as OHIF's plugin sends it: all points of the label so far, voxels ``(i, j, k)``.

        Args:
            model: By name.
            image: Id of the datastore.
            foreground: The points.
            output: ``image`` for the file alone.
            params: Further parameters, or others than OHIF's.
        """
        sent = {
            "foreground": [list(point) for point in foreground],
            "background": [],
            "result_extension": ".nrrd",
            "result_dtype": "uint8",
            "result_compress": False,
            "restore_label_idx": False,
            **params,
        }
        query = {"image": image, **({"output": output} if output else {})}
        return self._timed("POST", f"/infer/{model}", params=query, files={"params": (None, json.dumps(sent))})

    def segment(self, png: bytes, sam_input: dict[str, Any]) -> Answer:
        """``POST /segment_input_image/``."""
        files = {"file": ("image.png", png, "image/png")}
        return self._timed("POST", "/segment_input_image/", files=files, data={"sam_input": json.dumps(sam_input)})

    def _timed(self, method: str, path: str, **arguments: Any) -> Answer:
        started = time.perf_counter()
        response = self._http.request(method, path, **arguments)
        content = response.content
        taken = 1000 * (time.perf_counter() - started)
        if response.status_code != 200:
            raise ServerError(f"{method} {path} answered {response.status_code}: {response.text[:300]}")
        return Answer(taken, content, {key.lower(): value for key, value in response.headers.items()})


@dataclass
class Server:
    """A running server.

    Args:
        url: Where it is.
        process: The process.
        folder: Of this server alone: ``server.log``, ``results``, ``tmp``.
        started_at: When, in Unix time.
        healthy_s: Seconds from then to its first healthy answer.
    """

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    started_at: float
    healthy_s: float = 0.0

    @property
    def log(self) -> Path:
        """What it writes to its standard output and error."""
        return self.folder / "server.log"

    @property
    def results(self) -> Path:
        """Where it keeps results."""
        return self.folder / "results"

    @property
    def temporary(self) -> Path:
        """Its folder for temporary files."""
        return self.folder / "tmp"

    def client(self) -> Client:
        """A new user."""
        return Client(self.url)

    def resident_bytes(self) -> int:
        """Memory of the process and of those that it started."""
        return sum(process.memory_info().rss for process in self._processes())

    def open_files(self) -> int:
        """File descriptors of the process and of those that it started."""
        return sum(process.num_fds() for process in self._processes())

    def wait_until_idle(self, seconds: float = 90.0) -> None:
        """Wait until nothing is computed in it any more, such as work ahead of the next click; or so many seconds."""
        process, end = psutil.Process(self.process.pid), time.monotonic() + seconds
        while time.monotonic() < end and process.cpu_percent(_IDLE_S) > _IDLE_PERCENT:
            pass

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, app: Path, studies: Path, conf: Sequence[str]) -> Iterator[Server]:
    """Start a server, wait until it is healthy, stop it at the end and remove its folder.

    Args:
        folder: Made for this server.
        app: The app's folder.
        studies: The folder of images.
        conf: Options: keys and values in turns.

    Raises:
        ServerError: If it does not come up; the message holds the end of its log.
    """
    port = free_port()
    (folder / "tmp").mkdir(parents=True)
    places = {name: str(folder / name) for name in ("results", "embeddings", "audit_log")}
    options = {**places, **dict(zip(conf[::2], conf[1::2], strict=True))}
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += [word for key, value in options.items() for word in ("--conf", key, value)]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "TMPDIR": str(folder / "tmp"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("PYTHONPATH", None)  # MONAI Label finds the modules of each app, ours or its own, itself
    started_at, started = time.time(), time.perf_counter()
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment
        )
    server = Server(f"http://127.0.0.1:{port}", process, folder, started_at)
    try:
        _wait_until_healthy(server)
        server.healthy_s = time.perf_counter() - started
        yield server
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, by its number."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(server: Server) -> None:
    end = time.monotonic() + _STARTUP_S
    with httpx.Client(base_url=server.url, timeout=10, trust_env=False) as client:
        while time.monotonic() < end and server.process.poll() is None:
            try:
                if client.get("/health_check/").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
    end_of_log = "\n".join(server.log.read_text(errors="replace").splitlines()[-15:])
    raise ServerError(f"the server did not become healthy; the end of its log:\n{end_of_log}")


def png(image: np.ndarray) -> bytes:
    """``(H, W)`` or ``(H, W, 3)`` uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """The pixels of an image file."""
    return np.asarray(Image.open(io.BytesIO(content)))

"""Workers of Ray Serve that this server starts: on this machine, or on those of a cluster that is there.

Ray is no part of requirements.txt, and is never imported here: a process of its own starts the workers and watches
them, see :mod:`lib.workers.deployer`. If that ends, it is begun anew.
"""

import atexit
import hashlib
import hmac
import importlib.util
import json
import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lib.base.threads import start_watched
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.remote import Workers
from lib.sam.runtimes.runtime import Precision
from lib.workers.http_workers import HttpWorkers
from lib.workers.place import WorkersPlace
from lib.workers.settings import Deployment, WorkerSettings
from lib.workers.wire import TOKEN_VARIABLE

logger = logging.getLogger(__name__)

CLUSTER_PORT = 8000
"""Where the workers of a cluster answer, on each of its machines: Ray Serve's default."""

_START_S = 120.0
"""Time after which the server starts without those workers that are not there yet; they may still come."""

_SHORT_PLACES = ("/tmp", "/var/tmp")  # noqa: S108 - for folders with names of their own
_LONGEST_FOLDER = 40
"""Longest path of a folder in which Ray can make sockets: the kernel allows theirs 107 bytes, of which Ray takes 62."""

_TRIES = 3
"""How often Ray is asked at the start before it is given up: a cluster's client server does not always start."""

_PAUSE_S = 1.0
_END_S = 8.0


class WorkersStartError(RuntimeError):
    """The workers cannot be started; the message says why and what to do."""


def workers_at(
    place: WorkersPlace,
    specs: Sequence[ModelSpec],
    model_folder: Path,
    *,
    precision: Precision | None = None,
    cores: int = 1,
) -> Workers:
    """Return the workers of a place, which are started first unless somebody else has them served.

    Args:
        place: Where they run.
        specs: The models that they offer, the default one first.
        model_folder: Where the checkpoints are, for workers on this machine.
        precision: As for :class:`~lib.sam.engine.Engine`.
        cores: Cores, and threads, of each worker.

    Raises:
        WorkersStartError: If Ray is not installed, they cannot be started, or their token is missing.
    """
    if not place.served:
        return RayWorkers(place, specs, model_folder, precision=precision, cores=cores)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise WorkersStartError(f"the workers' token is missing: set {TOKEN_VARIABLE} to theirs")
    workers = HttpWorkers(token, place.served)
    workers.watch()
    if not workers.running:
        logger.error("No worker answers yet; they may still come")
    return workers


class RayWorkers(HttpWorkers):
    """Workers that this server starts, which takes some seconds; arguments and errors as of :func:`workers_at`.

    A worker that ends is started anew by Ray Serve; all of them, if Ray itself has ended.
    """

    def __init__(
        self,
        place: WorkersPlace,
        specs: Sequence[ModelSpec],
        model_folder: Path,
        *,
        precision: Precision | None = None,
        cores: int = 1,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise WorkersStartError("--conf workers needs Ray, which is not installed: run `scripts/setup --ray`")
        token = _cluster_token() if place.cluster else secrets.token_hex(32)
        super().__init__(token)
        least, most = place.here or (0, 0)
        if place.here and not most:
            least = most = max(1, len(os.sched_getaffinity(0)) // cores)
        folder = str(model_folder) if place.here else None
        self._settings = WorkerSettings(least, most, cores, token, pickle.dumps(list(specs)), folder, precision)
        self._cluster = place.cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._changing = threading.Lock()
        self._is_ending = False
        self._error = ""
        self._failures = 0
        self.wanted = least
        began = time.monotonic()
        atexit.register(self.close)
        start_watched("workers-start", self._keep_started)
        while not self._is_complete() and time.monotonic() - began < _START_S:
            if self._failures >= _TRIES:
                self.close()
                where = place.cluster or "on this machine"
                raise WorkersStartError(f"Ray {where} does not start the workers: {self._error}")
            time.sleep(0.1)
            self._look()
        level = logging.INFO if self._is_complete() else logging.ERROR
        taken = time.monotonic() - began
        logger.log(level, "%d of %d workers are there after %.1f s", self.running, self.wanted, taken)
        self.watch()

    def _is_complete(self) -> bool:
        return 0 < self.wanted <= self.running

    def _keep_started(self) -> None:
        """Have the workers started, and again whenever what watches them ends; runs in a thread of its own."""
        while not self._is_ending:
            temporary = None if self._cluster else _short_folder()
            try:
                self._follow(temporary)
            finally:
                self.addresses = []
                if temporary:
                    shutil.rmtree(temporary, ignore_errors=True)
            self._failures += 1
            if not self._is_ending:
                logger.error("Ray does not answer, and is asked again: %s", self._error or "its process ended")
                time.sleep(_PAUSE_S)

    def _follow(self, temporary: str | None) -> None:
        """Run the process that starts the workers, and take note of what it says, until it ends."""
        port = CLUSTER_PORT if self._cluster else _free_port()
        deployment = Deployment(self._settings, self._cluster, port, temporary)
        with self._changing:
            if self._is_ending:
                return
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "lib.workers.deployer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_environment(is_local=not self._cluster)},
                start_new_session=True,
            )
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError):
                pickle.dump(deployment, process.stdin)
                process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                self._error = said.get("error", "")
                self.addresses = said.get("addresses", [])
        finally:
            _end(process, with_all=not self._cluster)

    def close(self) -> None:
        """End what was started on this machine; a cluster's workers go on, for other servers and the next start."""
        with self._changing:
            self._is_ending = True
            process = self._process
        if process is not None and process.stdin:
            with suppress(OSError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            _end(process, with_all=not self._cluster)


def _end(process: subprocess.Popen[bytes], *, with_all: bool) -> None:
    """End a process and, if asked to, all that it has started."""
    with suppress(ProcessLookupError):
        if with_all:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _environment(*, is_local: bool) -> dict[str, str]:
    """Return what the process that starts workers, and those it starts, have in their environment."""
    app = str(Path(__file__).resolve().parents[2])
    added = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place in sys.path]
    found = {"PYTHONPATH": os.pathsep.join([app, *added]), "RAY_USAGE_STATS_ENABLED": "0"}
    if not is_local:
        return {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"), **found}
    return found | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # by which Ray uses 127.0.0.1 alone, on Linux, too
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",  # one thread less between a request and its worker
        "RAY_worker_niceness": "0",  # Ray's spelling; the encoder lowers its own priority
        "RAY_health_check_period_ms": "1000",  # so that a part that is gone is noticed within seconds
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _cluster_token() -> str:
    """Return the token of a cluster's workers: the operator's or, made from Ray's own, the same for all servers.

    Raises:
        WorkersStartError: If there is neither.
    """
    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    ray_token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not ray_token:
        with suppress(OSError):
            ray_token = path.read_text().strip()
    if not ray_token:
        raise WorkersStartError(
            "the cluster's token is missing: copy its ~/.ray/auth_token to this user's, or set RAY_AUTH_TOKEN"
        )
    return hmac.new(ray_token.encode(), b"sam workers", hashlib.sha256).hexdigest()


def _short_folder() -> str:
    """Return a new folder, this user's alone, whose path is short enough for the sockets that Ray makes in it."""
    for place in (None, *_SHORT_PLACES):
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="r", dir=place)
            if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
                return folder
            os.rmdir(folder)
    return tempfile.mkdtemp(prefix="r")  # Ray says what is wrong with it


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

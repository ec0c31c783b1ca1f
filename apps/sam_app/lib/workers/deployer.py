"""Starts workers and watches them: a process of its own, the only one of a server that knows Ray.

So whatever becomes of Ray, the server goes on: this process then ends, and the server begins it anew. It gets a
:class:`~lib.workers.settings.Deployment` on standard input, and ends when that is closed, which is when the server
ends. On standard output it says, in lines of JSON, at which ``addresses`` the workers answer, or why there are none.
"""

import json
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray import serve

from lib.workers.application import ENCODERS, STATUS, encoders_of, facts_of, status_of
from lib.workers.settings import Deployment, WorkerSettings
from lib.workers.wire import PATH, STATUS_PATH

T = TypeVar("T")

_LOOK_EVERY_S = 1.0
_ANSWER_S = 4.0
"""Time within which Ray has to answer; else it is taken for gone."""

_START_S = 90.0
_IN_FLIGHT_BYTES = 64 << 20
"""Ray's shared memory for each worker: an image and its embedding."""


def main() -> None:
    """Do what standard input says, until it is closed."""
    channel = os.fdopen(os.dup(1), "w")  # which no other process inherits
    os.dup2(2, 1)
    deployment: Deployment = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server itself
    threads = ThreadPoolExecutor(1)

    def within(seconds: float, work: Callable[[], T]) -> T:
        return threads.submit(work).result(seconds)

    def say(**facts: Any) -> None:
        print(json.dumps(facts), file=channel, flush=True)

    status = 1
    try:
        within(_START_S, lambda: _start(deployment))
        known: Sequence[str] = ()
        while not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
            addresses = within(_ANSWER_S, lambda: _addresses(deployment))
            if addresses != known:
                known = addresses
                say(addresses=addresses)
        status = 0
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    _end(deployment, status)


def _start(deployment: Deployment) -> None:
    """Start Ray, or connect to it, and have Ray Serve run the workers, unless it does already."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    settings = deployment.settings
    if deployment.cluster:
        ray.init(deployment.cluster, **quiet)
        settings = _sized(settings)
        http = {"host": "0.0.0.0", "port": deployment.port}  # noqa: S104 - on the cluster's machines; asks for the token
        serve.start(proxy_location="EveryNode", http_options=http)
    else:
        local = {"num_cpus": settings.most * settings.cores, "num_gpus": 0, "include_dashboard": False}
        local["object_store_memory"] = max(2, settings.most) * _IN_FLIGHT_BYTES
        ray.init("local", _temp_dir=deployment.temporary, **local, **quiet)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": deployment.port})
    if _running() != facts_of(settings):
        targets = [
            serve.RunTarget(encoders_of(settings), name=ENCODERS, route_prefix=PATH),
            serve.RunTarget(status_of(settings), name=STATUS, route_prefix=STATUS_PATH),
        ]
        serve.run_many(targets, wait_for_applications_running=False)


def _sized(settings: WorkerSettings) -> WorkerSettings:
    """Return settings with as many workers as the cluster has cores for now."""
    fit = int(ray.cluster_resources().get("CPU", 0)) // settings.cores
    if not fit:
        raise RuntimeError(f"the cluster has no {settings.cores} cores for a worker")
    return replace(settings, least=fit, most=fit)


def _running() -> dict[str, Any] | None:
    """Return what runs already, as :func:`facts_of` tells it; None if nothing does."""
    try:
        if not {ENCODERS, STATUS} <= set(serve.status().applications):
            return None
        told: dict[str, Any] = serve.get_app_handle(STATUS).identity.remote().result(timeout_s=_ANSWER_S)
        return told
    except Exception:  # it is just being started, or is of another version: it is started anew
        return None


def _addresses(deployment: Deployment) -> list[str]:
    """Return where the workers answer now: at each of Ray Serve's proxies.

    Raises:
        RuntimeError: If somebody has removed the workers, or Ray has ended here.
    """
    status = serve.status()
    if ENCODERS not in status.applications:
        raise RuntimeError("the workers were removed")
    if not deployment.cluster:
        if not any(node["Alive"] for node in ray.nodes()):
            raise RuntimeError("a part of Ray has ended")
        return [f"http://127.0.0.1:{deployment.port}"]
    hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    return sorted(f"http://{hosts[node]}:{deployment.port}" for node in status.proxies if node in hosts)


def _end(deployment: Deployment, status: int) -> None:
    """Leave Ray, and end all that was started of it; what a cluster runs goes on."""
    if deployment.cluster or not status:  # else Ray does not answer, and need not be asked
        signal.signal(signal.SIGALRM, lambda *_: _end_now(deployment, status))
        signal.alarm(int(_ANSWER_S))
        ray.shutdown()
    _end_now(deployment, status)


def _end_now(deployment: Deployment, status: int) -> None:
    if not deployment.cluster and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # and this process with it
    os._exit(status)


if __name__ == "__main__":
    main()

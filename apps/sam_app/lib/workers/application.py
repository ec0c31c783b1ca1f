"""The workers as applications of Ray Serve: :func:`encoders`, and :func:`status`, which tells how many there are.

Both are behind Ray Serve's HTTP proxies, at the paths of :mod:`lib.workers.wire`. They are named in a file of Ray
Serve's or KubeRay's as ``lib.workers.application:encoders`` and ``lib.workers.application:status``; a server that
starts workers itself makes them by the same functions, see :mod:`lib.workers.deployer`.
"""

import asyncio
import hashlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from lib.version import VERSION
from lib.workers.settings import WorkerSettings
from lib.workers.wire import DEMAND, FRONT, TOKEN_VARIABLE, is_authorized

ENCODERS, STATUS = "sam-encoders", "sam-workers"
"""Names of the applications in Ray Serve."""

_FRESH_S = 0.5
_RECENT_S = 3.0
_SCALE_UP_S, _SCALE_DOWN_S = 3.0, 300.0


class LeastBusy(FIFOMixin, RequestRouter):  # type: ignore[misc]
    """Gives an image to the worker that has the least to do, of all of them: an encode takes long, asking does not."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the candidates, among which Ray Serve takes the one with the shortest queue."""
        return [candidate_replicas]


class Encoder:
    """A worker; imports what it needs when it starts, as those who only start it do not need it."""

    def __init__(self, settings: WorkerSettings) -> None:
        from lib.workers.encoder_replica import EncoderReplica

        specs = pickle.loads(settings.specs)  # noqa: S301 - from the server, or the function below
        self._replica = EncoderReplica(
            specs,
            settings.model_folder,
            settings.precision,  # type: ignore[arg-type]
            settings.cores,
            settings.token,
        )

    async def __call__(self, request: Request) -> Response:
        """See :meth:`lib.workers.encoder_replica.EncoderReplica.answer`."""
        return await self._replica.answer(request)


class Status:
    """Tells how many workers there are, and each server how much the others want of them.

    Args:
        token: Who does not have it is refused.
        facts: What it tells beside that, see :meth:`identity`.
    """

    def __init__(self, token: str, facts: Mapping[str, Any]) -> None:
        self._token, self._facts = token, dict(facts)
        self._counts: dict[str, int] = {}
        self._asked = -_FRESH_S
        self._asking = asyncio.Lock()
        self._demands: dict[str, tuple[float, int]] = {}

    async def __call__(self, request: Request) -> Response:
        """Answer with JSON: what was started, the ``running`` and ``wanted`` workers, and the demand ``elsewhere``."""
        if not is_authorized(request.headers, self._token):
            return PlainTextResponse("these workers are another server's: the token is wrong", 401)
        async with self._asking:
            if time.monotonic() - self._asked > _FRESH_S:
                self._counts = await asyncio.to_thread(_counts, self._facts["least"])
                self._asked = time.monotonic()
        now = time.monotonic()
        self._demands[request.headers.get(FRONT, "")] = now, int(request.headers.get(DEMAND, "0"))
        self._demands = {front: told for front, told in self._demands.items() if now - told[0] < _RECENT_S}
        elsewhere = sum(told[1] for front, told in self._demands.items() if front != request.headers.get(FRONT, ""))
        return JSONResponse({**self._facts, **self._counts, "elsewhere": elsewhere})

    async def identity(self) -> Mapping[str, Any]:
        """Return what was started."""
        return self._facts


def _counts(least: int) -> dict[str, int]:
    """Return how many workers there are, ``running``, and how many there shall be, ``wanted``."""
    application = serve.status().applications.get(ENCODERS)
    states: Counter[str] = Counter()
    for deployment in application.deployments.values() if application else ():
        states.update(deployment.replica_states)
    wanted = states.total() - states["STOPPING"]
    return {"running": states["RUNNING"], "wanted": max(least, wanted)}


def facts_of(settings: WorkerSettings) -> dict[str, Any]:
    """Return what tells workers from others: two servers that would start the same ones share them."""
    told = {"version": VERSION, "least": settings.least, "most": settings.most, "cores": settings.cores}
    return {**told, "models": _digest(settings)}


def _digest(settings: WorkerSettings) -> str:
    parts = settings.specs, settings.model_folder, settings.precision, settings.token
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def encoders_of(settings: WorkerSettings) -> serve.Application:
    """Return the application of the workers."""
    number: dict[str, Any] = {"num_replicas": settings.least}
    if settings.least != settings.most:
        scaling = AutoscalingConfig(
            min_replicas=settings.least,
            max_replicas=settings.most,
            target_ongoing_requests=1,
            upscale_delay_s=_SCALE_UP_S,
            downscale_delay_s=_SCALE_DOWN_S,
            metrics_interval_s=1,
            look_back_period_s=_SCALE_UP_S,
        )
        number = {"autoscaling_config": scaling}
    deployment = serve.deployment(
        Encoder,
        name="encoder",
        **number,
        max_ongoing_requests=1,
        request_router_config=RequestRouterConfig(request_router_class=LeastBusy),
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={
            "num_cpus": settings.cores,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(settings.cores)}},
        },
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(settings)


def status_of(settings: WorkerSettings) -> serve.Application:
    """Return the application that tells how many workers there are."""
    deployment = serve.deployment(
        Status,
        name="status",
        num_replicas=1,
        max_ongoing_requests=100,
        health_check_period_s=1,
        health_check_timeout_s=10,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(settings.token, facts_of(settings))


def encoders(args: Mapping[str, Any]) -> serve.Application:
    """Return the application of the workers, from a file of Ray Serve's or KubeRay's.

    Args:
        args: ``models`` by name, a list, the default one first (``sam_tiny`` alone if missing); ``workers``, their
            number, or ``min_workers`` and ``max_workers``; ``cores`` of each (1 if missing); ``precision``. The token
            is the environment variable ``SAM_WORKERS_TOKEN``.

    Raises:
        ValueError: If an argument or the token is missing or wrong; the message says what would be right.
    """
    return encoders_of(_settings(args))


def status(args: Mapping[str, Any]) -> serve.Application:
    """Return the application that tells how many there are; arguments and errors as of :func:`encoders`."""
    return status_of(_settings(args))


def _settings(args: Mapping[str, Any]) -> WorkerSettings:
    from lib.sam.models.model_specs import known_models
    from lib.sam.models.registry import DEFAULT_MODEL, get_spec
    from lib.sam.runtimes.choice import PRECISIONS

    known = {"models", "workers", "min_workers", "max_workers", "cores", "precision", "model_specs"}
    if unknown := set(args) - known:
        raise ValueError(f"there is no argument {', '.join(sorted(unknown))}; they are {', '.join(sorted(known))}")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise ValueError(f"the token that servers and workers share is missing: set {TOKEN_VARIABLE}")
    least = args.get("min_workers", args.get("workers", 1))
    most, cores = args.get("max_workers", least), args.get("cores", 1)
    if not all(isinstance(count, int) and count > 0 for count in (least, most, cores)) or least > most:
        raise ValueError("workers, min_workers, max_workers and cores must be whole numbers above 0, the least first")
    precision = args.get("precision")
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
    models = known_models(Path(args["model_specs"]) if args.get("model_specs") else None)
    specs = [get_spec(name, models) for name in args.get("models", [DEFAULT_MODEL])]
    return WorkerSettings(least, most, cores, token, pickle.dumps(specs), precision=precision)

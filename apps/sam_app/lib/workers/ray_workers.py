"""Workers of Ray Serve: on this machine, or on those of a cluster that is there.

Ray is no part of requirements.txt; it is imported when workers are asked for. Nothing of it listens for HTTP, reports
its use, or decides who is next: each worker takes one image at a time, and no more are sent than there are workers.
"""

import atexit
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.threads import start_periodic
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.remote import EncodeOrder, PendingEncode, WorkerDiedError, Workers, WorkersUnavailableError
from lib.sam.runtimes.runtime import Precision
from lib.version import VERSION
from lib.workers.encoder_replica import REFUSED, EncoderReplica
from lib.workers.place import WorkersPlace

logger = logging.getLogger(__name__)

APP = "sam-encoders"
"""Name of the application in Ray Serve."""

_LOOK_EVERY_S = 1.0
_STALE_S = 10.0
"""Age from which the last known number of workers says nothing: who tells it does not answer."""
_START_S = 120.0
"""Time after which the server starts without those workers that are not there yet; they may still come."""

_END_S = 5.0
_IN_FLIGHT_BYTES = 64 << 20
"""Ray's shared memory for each worker: an image and its embedding."""


class WorkersStartError(RuntimeError):
    """The workers cannot be started; the message says why and what to do."""


class RayWorkers(Workers):
    """Workers of Ray Serve; starts them, which takes some seconds.

    A worker that ends is started anew by Ray Serve. A cluster that is gone is asked for again every second.

    Args:
        place: Where they run.
        specs: The models that they offer, the default one first.
        model_folder: Where the checkpoints are, for workers on this machine.
        precision: As for :class:`~lib.sam.engine.Engine`.
        cores: Cores, and threads, of each worker.

    Raises:
        WorkersStartError: If Ray is not installed, or they cannot be started.
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
        super().__init__(place.count or 0)
        if importlib.util.find_spec("ray") is None:
            raise WorkersStartError("--conf workers needs Ray, which is not installed: run `scripts/setup --ray`")
        self._place, self._cores = place, cores
        self._replica = list(specs), str(model_folder) if place.count else None, precision, cores
        self._handle: Any = None
        self._running, self._looked = 0, 0.0
        self._connecting = threading.Lock()
        self._is_ending = False
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # the default of a cluster, but not of who connects to it
        if place.count:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # by which Ray uses 127.0.0.1 alone, on Linux, too
            os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling; the encoder lowers its own priority
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        began = time.monotonic()
        try:
            self._connect()
            self._look()
            while self._running < self.wanted and time.monotonic() - began < _START_S:
                time.sleep(_LOOK_EVERY_S / 4)
                self._look()
        except Exception as error:
            where = place.address or "on this machine"
            raise WorkersStartError(f"Ray {where} does not start the workers: {error}") from error
        level = logging.INFO if self._running == self.wanted else logging.ERROR
        taken = time.monotonic() - began
        logger.log(level, "%d of %d workers are there after %.1f s", self._running, self.wanted, taken)
        atexit.register(self.close)
        start_periodic("workers", self._keep_looking, _LOOK_EVERY_S)

    @property
    def running(self) -> int:
        """See :class:`~lib.sam.runtimes.remote.Workers`."""
        return self._running if time.monotonic() - self._looked < _STALE_S else 0

    def begin(self, order: EncodeOrder) -> PendingEncode:
        """See :class:`~lib.sam.runtimes.remote.Workers`."""
        arguments = VERSION, order.model, order.checkpoint_sha256, order.runtime, order.inputs
        return _RayEncode(self._handle.encode.remote(*arguments))

    def _connect(self) -> None:
        """Start Ray, or connect to it, and have Ray Serve run the workers."""
        import ray
        from ray import serve

        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        environment = {"OMP_NUM_THREADS": str(self._cores)}
        if self._place.address:
            ray.init(self._place.address, **quiet)
            self.wanted = int(ray.cluster_resources().get("CPU", 0)) // self._cores
            if not self.wanted:
                raise WorkersUnavailableError(f"the cluster has no {self._cores} cores for a worker")
        else:
            environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *_python_path()])
            local = {"num_cpus": self.wanted * self._cores, "num_gpus": 0, "include_dashboard": False}
            local["object_store_memory"] = max(2, self.wanted) * _IN_FLIGHT_BYTES
            try:
                ray.init("local", _temp_dir=tempfile.mkdtemp(prefix="r"), **local, **quiet)
            except Exception:  # on a busy machine its parts can take longer than Ray waits for them: once more
                ray.shutdown()
                ray.init("local", _temp_dir=tempfile.mkdtemp(prefix="r"), **local, **quiet)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            EncoderReplica,
            name="encoder",
            num_replicas=self.wanted,
            max_ongoing_requests=1,
            health_check_period_s=1,
            health_check_timeout_s=10,
            graceful_shutdown_timeout_s=5,
            ray_actor_options={"num_cpus": self._cores, "runtime_env": {"env_vars": environment}},
            logging_config={"enable_access_log": False},
        )
        target = serve.RunTarget(deployment.bind(*self._replica), name=APP, route_prefix=None)
        (self._handle,) = serve.run_many([target], wait_for_applications_running=False)

    def _look(self) -> None:
        """Ask Ray Serve how many workers there are."""
        from ray import serve

        application = serve.status().applications.get(APP)
        deployments = application.deployments.values() if application else ()
        self._running = sum(deployment.replica_states.get("RUNNING", 0) for deployment in deployments)
        self._looked = time.monotonic()

    def _keep_looking(self) -> None:
        with self._connecting:
            if self._is_ending:
                return
            try:
                self._look()
            except Exception as error:
                if self._running:
                    logger.error("Ray does not answer, so no worker encodes: %s", type(error).__name__)
                self._running = 0
                with suppress(Exception):
                    self._connect_anew()

    def _connect_anew(self) -> None:
        import ray

        ray.shutdown()
        self._connect()
        self._look()
        logger.info("Ray answers again: %d of %d workers are there", self._running, self.wanted)

    def close(self) -> None:
        """Leave Ray, and end what was started of it; also runs at the interpreter's end."""
        import ray

        self._is_ending = True
        self._connecting.acquire(timeout=_END_S)  # a look at a cluster that does not answer is not waited for
        ray.shutdown()


class _RayEncode:
    """A call of :meth:`EncoderReplica.encode`."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def result(self, seconds: float) -> Sequence[np.ndarray] | None:
        """See :class:`~lib.sam.runtimes.remote.PendingEncode`."""
        from ray.exceptions import RayError, RayTaskError

        try:
            kind, answer = self._response.result(timeout_s=seconds)
        except TimeoutError:
            return None
        except RayTaskError:  # the worker lives, and the encode itself failed
            raise
        except (RayError, ConnectionError) as error:
            raise WorkerDiedError(type(error).__name__) from error
        if kind == REFUSED:
            raise WorkersUnavailableError(f"a worker {answer}")
        levels: Sequence[np.ndarray] = answer
        return levels

    def cancel(self) -> None:
        """See :class:`~lib.sam.runtimes.remote.PendingEncode`."""
        with suppress(Exception):
            self._response.cancel()


def _python_path() -> list[str]:
    """Return what the environment adds to the places of modules, without those that are this Python's own."""
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place in sys.path]

"""The report that ``/health_check/`` returns."""

import importlib
import logging
import time

from lib.base.threads import recently_failed, start_watched
from lib.imaging.decoding.isolation import start_workers
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointError
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.server.rest.schemas import Health, ModelFacts, Queue, Status, WorkerCount
from lib.server.rest.segmentation_service import SegmentationService
from lib.version import VERSION

logger = logging.getLogger(__name__)


_PUBLIC_ERRORS = (CheckpointError, RuntimeUnavailableError)
"""Errors of loading a model whose messages clients may see."""


_IMPORTED_AHEAD = ("highdicom.seg", "lib.imaging.labels.anatomy_codes")
"""Modules that take long to import and that the first DICOM Segmentation needs, but neither the start nor a click."""


class HealthReport:
    """Reporter of the state of the engine and the queue; in the background it loads the default model.

    When that is loaded, all workers are started, and the modules are imported that later requests need.
    """

    def __init__(self, engine: Engine, service: SegmentationService) -> None:
        self._engine = engine
        self._service = service
        self._started = time.monotonic()
        self._failure: str | None = None
        start_watched("load-default-model", self._get_ready)

    def _get_ready(self) -> None:
        self._load_default_model()
        start_workers()
        for name in _IMPORTED_AHEAD:
            importlib.import_module(name)

    def _load_default_model(self) -> None:
        try:
            self._engine.predictor(self._engine.default_model)
        except Exception as error:
            logger.exception("The default model could not be loaded")
            self._failure = str(error) if isinstance(error, _PUBLIC_ERRORS) else "the default model could not be loaded"

    def _status(self, ready: bool) -> tuple[Status, str | None]:
        """Return the status and, unless it is ``ok``, why."""
        if not ready:
            return ("error", self._failure) if self._failure else ("loading", None)
        workers = self._engine.workers
        if workers and not workers.running:
            return "degraded", f"none of the {workers.wanted} workers that encode images is there; the log says why"
        threads = recently_failed()
        if threads:
            return "degraded", f"background work failed and was begun again: {', '.join(threads)}; the log says why"
        return "ok", None

    def now(self) -> Health:
        """Return the current state; takes no lock and reads no file but the checkpoints' names."""
        engine, workers = self._engine, self._engine.workers
        models = {name: engine.state(name) for name in engine.specs}
        status, detail = self._status(models[engine.default_model] == "ready")
        return Health(
            status=status,
            detail=detail,
            version=VERSION,
            models=dict(models),
            model_facts={name: ModelFacts(**spec.facts) for name, spec in engine.specs.items()},
            default_model=engine.default_model,
            device=str(engine.device),
            runtime=engine.runtime_of(engine.default_model) or "not loaded",
            uptime_seconds=round(time.monotonic() - self._started, 1),
            workers=WorkerCount(running=workers.running, wanted=workers.wanted) if workers else None,
            queue=Queue(running=self._service.admission.count, limit=self._service.admission.limit),
        )

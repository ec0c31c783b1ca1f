"""Metrics for Prometheus, at ``/metrics``. No value and no label is about a patient, an image or a user.

Requests and stages are counted as they end; everything else is read from the live objects at each scrape.
Labels have bounded values: a path without a route is ``unmatched``, an unusual method is ``other``.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from importlib.metadata import version
from typing import get_args

from fastapi import APIRouter, Depends, Request, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, StateSetMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lib.base.threads import restarts
from lib.sam.engine import Engine, ModelState
from lib.version import VERSION

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sam_http_requests", "HTTP requests that ended.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "sam_http_request_seconds",
            "Time from a request's first byte to the response's last byte.",
            ("route",),
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "sam_stage_seconds",
            "Stages of the work on an image: read, window, embedding (from disk), encode, decode, write; and wait.",
            ("stage",),
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._jobs = Counter("sam_jobs", "Queued segmentations that ended.", ("outcome",), registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, collector: Collector) -> None:
        """Add a collector, which is read at each scrape."""
        self.registry.register(collector)

    def request_ended(
        self, method: str, route: str, status: int | None, seconds: float, stages: Mapping[str, float]
    ) -> None:
        """Count a request; its status is None if the client disconnected before there was one."""
        self._requests.labels(method, route, "none" if status is None else str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._observe_stages(stages)

    def job_ended(self, outcome: str, stages: Mapping[str, float]) -> None:
        """Count a queued segmentation that ended."""
        self._jobs.labels(outcome).inc()
        self._observe_stages(stages)

    def _observe_stages(self, stages: Mapping[str, float]) -> None:
        for stage, seconds in stages.items():
            self._stages.labels(stage).observe(seconds)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(eq=False)
class LiveState(Collector):
    """Collector of the present state of engine, queue, result store and audit log.

    Args:
        engine: The engine whose models and cache are shown.
        running: Returns the number of segmentations that are running or waiting.
        limit: The largest allowed number of them.
        results: Returns numbers by name: ``results``, ``queued``, ``bytes``.
        lost_audit_lines: Returns the number of lines that the audit log could not write.
    """

    engine: Engine
    _: KW_ONLY
    running: Callable[[], int]
    limit: int
    results: Callable[[], dict[str, int]]
    lost_audit_lines: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, for prometheus_client."""
        info = InfoMetricFamily("sam_build", "Versions.")
        info.add_metric([], {"version": VERSION, **{name: version(name) for name in ("monailabel", "torch")}})
        yield info
        states = StateSetMetricFamily(
            "sam_model_state", "Each model's state: 1 for the one it is in.", labels=["model"]
        )
        for name in self.engine.specs:
            state = self.engine.state(name)
            states.add_metric([name], {known: known == state for known in get_args(ModelState)})
        yield states
        restarted = CounterMetricFamily(
            "sam_thread_restarts", "Restarts of background work that failed.", labels=["thread"]
        )
        for thread, count in restarts().items():
            restarted.add_metric([thread], count)
        yield restarted
        workers = self.engine.workers
        values = {
            "running": self.running(),
            "limit": self.limit,
            "lost_audit_lines": self.lost_audit_lines(),
            **{f"cache_{name}": count for name, count in self.engine.cache.stats().items()},
            **{f"store_{name}": count for name, count in self.results().items()},
            **{f"workers_{name}": count for name, count in (workers.stats() if workers else {}).items()},
        }
        for family, metric, meaning, name in _VALUES:
            if name in values:
                yield family(metric, meaning, values[name])


_VALUES = (
    (GaugeMetricFamily, "sam_queue_running", "Segmentations running or waiting.", "running"),
    (GaugeMetricFamily, "sam_queue_limit", "Upper limit of sam_queue_running.", "limit"),
    (GaugeMetricFamily, "sam_results", "Finished results in the store.", "store_results"),
    (GaugeMetricFamily, "sam_results_bytes", "Bytes of the finished results.", "store_bytes"),
    (GaugeMetricFamily, "sam_results_queued", "Accepted requests without a result yet.", "store_queued"),
    (CounterMetricFamily, "sam_audit_lines_lost", "Audit lines that could not be written.", "lost_audit_lines"),
    (CounterMetricFamily, "sam_embedding_cache_hits", "Embeddings found in memory.", "cache_hits"),
    (CounterMetricFamily, "sam_embedding_cache_misses", "Embeddings found on disk or computed.", "cache_misses"),
    (GaugeMetricFamily, "sam_embedding_cache_entries", "Embeddings in memory.", "cache_entries"),
    (GaugeMetricFamily, "sam_embedding_cache_bytes", "Bytes of embeddings in memory.", "cache_bytes"),
    (CounterMetricFamily, "sam_embedding_disk_hits", "Embeddings found on disk.", "cache_disk_hits"),
    (CounterMetricFamily, "sam_embedding_disk_evicted", "Embeddings deleted for the size limit.", "cache_disk_evicted"),
    (CounterMetricFamily, "sam_embedding_disk_lost", "Embeddings that could not be written.", "cache_disk_lost"),
    (GaugeMetricFamily, "sam_embedding_disk_entries", "Embeddings on disk.", "cache_disk_entries"),
    (GaugeMetricFamily, "sam_embedding_disk_bytes", "Bytes of embeddings on disk.", "cache_disk_bytes"),
    (GaugeMetricFamily, "sam_workers_wanted", "Workers that there should be.", "workers_wanted"),
    (GaugeMetricFamily, "sam_workers_running", "Workers that can encode now.", "workers_running"),
    (CounterMetricFamily, "sam_worker_encodes", "Images that workers encoded.", "workers_done"),
    (CounterMetricFamily, "sam_worker_encode_seconds", "Time of these encodes, there and back.", "workers_seconds"),
    (CounterMetricFamily, "sam_worker_repeats", "Encodes repeated as a worker ended.", "workers_repeated"),
    (CounterMetricFamily, "sam_worker_failures", "Encodes that no worker did.", "workers_failed"),
)
"""Metrics of a single value: type, name, description, and the value's name in :meth:`LiveState.collect`."""

router = APIRouter(tags=["Others"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}},
    dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
)
async def metrics(request: Request) -> Response:
    """Return numbers about requests, stages, cache, queue, models, results, process. Needs a login, if set up."""
    text = await asyncio.to_thread(request.app.state.observer.metrics.exposition)
    return Response(text, media_type=CONTENT_TYPE_LATEST)

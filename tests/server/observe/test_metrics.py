"""What Prometheus is told, read with Prometheus' own parser."""

from __future__ import annotations

import shutil

import pytest
from fastapi import FastAPI
from fastapi.middleware import Middleware
from prometheus_client.parser import text_string_to_metric_families

from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointStore
from lib.sam.models.registry import get_spec
from lib.server.observe.audit import AuditLog
from lib.server.observe.metrics import LiveState, Metrics, router
from lib.server.observe.middleware import Observer, ObservingMiddleware
from lib.version import VERSION
from support.asgi import ask


@pytest.fixture
def engine(tmp_path) -> Engine:
    """With the bundled model alone, and its networks for OpenVINO if they are there."""
    specs, folder = [get_spec("sam_tiny"), get_spec("sam_vit_h")], tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, folder, ignore=shutil.ignore_patterns("*.pth", "*.pt"))
    return Engine(specs, folder, device="cpu")


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@pytest.mark.slow
def test_live_state_is_read_when_asked(engine):
    running, results, lost = [3], {"results": 7, "bytes": 4096, "queued": 2}, [0]
    metrics = Metrics()
    metrics.watch(
        LiveState(
            engine,
            running=lambda: running[0],
            limit=16,
            results=lambda: results,
            lost_audit_lines=lambda: lost[0],
        )
    )
    before = samples(metrics.exposition())
    assert before["sam_queue_running",] == 3 and before["sam_queue_limit",] == 16
    assert (before["sam_results",], before["sam_results_bytes",], before["sam_results_queued",]) == (7, 4096, 2)
    assert before["sam_model_state", "sam_tiny", "not loaded"] == 1
    assert before["sam_model_state", "sam_tiny", "ready"] == 0
    assert before["sam_model_state", "sam_vit_h", "no checkpoint"] == 1
    assert before["sam_embedding_cache_misses_total",] == 0
    assert any(key[0] == "sam_build_info" and VERSION in key for key in before)
    assert before["process_open_fds",] > 0 and before["process_resident_memory_bytes",] > 2**20

    running[0], lost[0] = 0, 1
    engine.predictor("sam_tiny")
    after = samples(metrics.exposition())
    assert after["sam_queue_running",] == 0 and after["sam_audit_lines_lost_total",] == 1
    assert after["sam_model_state", "sam_tiny", "ready"] == 1


@pytest.mark.slow
def test_the_cache_is_shown(engine, disc):
    image, _ = disc
    predictor = engine.predictor("sam_tiny")
    for _ in range(3):
        predictor.encode(image)
    metrics = Metrics()
    metrics.watch(LiveState(engine, running=int, limit=1, results=no_results, lost_audit_lines=int))
    found = samples(metrics.exposition())
    assert found["sam_embedding_cache_misses_total",] == 1 and found["sam_embedding_cache_hits_total",] == 2
    assert found["sam_embedding_cache_entries",] == 1
    assert ("sam_embedding_disk_entries",) not in found
    assert found["sam_embedding_cache_bytes",] == engine.cache.stats()["bytes"] > 0


def test_what_is_on_disk_is_shown(tmp_path, disc):
    image, _ = disc
    for restart in range(2):
        files = EmbeddingFiles(tmp_path, 1 << 30)
        engine = Engine([get_spec("sam_tiny")], CheckpointStore().folder, device="cpu", embedding_files=files)
        engine.predictor("sam_tiny").encode(image)
        files.flush()
        metrics = Metrics()
        metrics.watch(LiveState(engine, running=int, limit=1, results=no_results, lost_audit_lines=int))
        found = samples(metrics.exposition())
        assert found["sam_embedding_cache_misses_total",] == 1
        assert found["sam_embedding_disk_hits_total",] == restart
        assert found["sam_embedding_disk_entries",] == 1
        assert found["sam_embedding_disk_bytes",] == sum(file.stat().st_size for file in tmp_path.iterdir())
        assert found["sam_embedding_disk_evicted_total",] == found["sam_embedding_disk_lost_total",] == 0


def no_results() -> dict[str, int]:
    return {"results": 0, "bytes": 0, "queued": 0}


def test_the_route_answers_what_prometheus_reads(tmp_path):
    observer = Observer(AuditLog(tmp_path / "audit.jsonl", max_bytes=0), Metrics())
    app = FastAPI(middleware=[Middleware(ObservingMiddleware, observer=observer, max_seconds=60)])
    app.state.observer = observer
    app.include_router(router)
    ask(app, "GET", "/metrics")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.content)
    assert found["sam_http_requests_total", "GET", "/metrics", "200"] == 1
    assert found["sam_http_request_seconds_count", "/metrics"] == 1
    observer.audit.close()

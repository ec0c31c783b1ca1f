"""What clients and operators are told about the workers that encode."""

from __future__ import annotations

import time

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from lib.sam.device_queue import DeviceQueue
from lib.sam.runtimes.remote import WorkerDiedError
from lib.server.app import create_app
from support.asgi import ask
from support.in_process import made_app
from support.made_workers import MadeWorkers
from support.rest import DISC, png

DIED = WorkerDiedError("ended")


@pytest.fixture(scope="module")
def workers() -> MadeWorkers:
    return MadeWorkers(DIED, DIED)


@pytest.fixture(scope="module")
def app(tmp_path_factory, workers):
    with made_app(tmp_path_factory.mktemp("server") / "app") as sam_app:
        sam_app.engine.workers, sam_app.engine.encodes = workers, DeviceQueue(width=lambda: workers.running)
        app = create_app(sam_app)
        while ask(app, "GET", "/health_check/").json()["status"] == "loading":
            time.sleep(0.02)
        yield app
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()


def segment(app: FastAPI, disc):
    return ask(app, "POST", "/segment_input_image/", files={"file": ("x.png", png(disc[0]))}, data={"sam_input": DISC})


def metrics(app: FastAPI) -> dict[str, float]:
    text = ask(app, "GET", "/metrics").text
    return {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}


def test_when_workers_end_one_after_the_other_a_client_is_told_to_try_again(app, workers, disc):
    workers.now = 2
    answer = segment(app, disc)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["detail"].startswith("2 workers ended while they encoded the image")
    counted = metrics(app)
    assert (counted["sam_worker_repeats_total"], counted["sam_worker_failures_total"]) == (2, 1)
    assert (counted["sam_workers_wanted"], counted["sam_workers_running"]) == (2, 2)
    assert counted["sam_worker_encodes_total"] == 0


def test_without_workers_the_health_check_says_so_and_a_client_is_told_to_try_again(app, workers, disc):
    workers.now = 2
    assert ask(app, "GET", "/health_check/").json()["workers"] == {"running": 2, "wanted": 2}
    workers.now = 0
    health = ask(app, "GET", "/health_check/").json()
    assert health["workers"] == {"running": 0, "wanted": 2}
    assert health["status"] == "degraded" and health["detail"].startswith("none of the 2 workers")
    answer = segment(app, disc)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["detail"].startswith("none of the 2 workers that encode images is there")
    assert metrics(app)["sam_workers_running"] == 0

"""What is observed of a request, from an app that behaves and misbehaves in the ways that servers see."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse, StreamingResponse
from monailabel.config import settings
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from lib.base.clock import Clock, current_clock
from lib.base.request_record import RequestRecord, current_record, note
from lib.server.http.response_headers import SecurityHeaders
from lib.server.observe.audit import AuditLog
from lib.server.observe.metrics import Metrics
from lib.server.observe.middleware import Observer, ObservingMiddleware
from support.asgi import ask


@pytest.fixture
def app(tmp_path) -> FastAPI:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the server failed"}, 500)

    observer = Observer(AuditLog(tmp_path / "audit.jsonl", max_bytes=10**6), Metrics())
    app = FastAPI(
        middleware=[
            Middleware(ObservingMiddleware, observer=observer, max_seconds=300),
            Middleware(SecurityHeaders),
            Middleware(ServerErrorMiddleware, handler=answer),
        ]
    )
    app.state.observer = observer

    @app.post("/infer/{model}")
    def infer(model: str) -> dict[str, float]:  # in a worker thread, as the real one
        note(model=model, user="anna", prompts={"foreground": 1})
        with current_clock().stage("encode"):
            pass
        return {"remaining": current_clock().remaining}

    @app.get("/datastore/broken")
    def broken() -> None:
        raise RuntimeError("could not open doe_jane.nii.gz")

    @app.get("/datastore/missing")
    def missing() -> None:
        raise HTTPException(404, "there is no doe_jane")

    @app.get("/datastore/torn")
    def torn() -> StreamingResponse:
        def parts():
            yield b"some"
            raise RuntimeError("disk gone")

        return StreamingResponse(parts())

    @app.put("/datastore/image")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/info/")
    def info() -> str | None:
        record = current_record()
        return record and record.client

    yield app
    observer.audit.close()


@pytest.fixture
def audited(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


def test_without_a_login_no_user_is_named(app, audited):
    app.state.observer.job_ended(RequestRecord(user="admin"), Clock(), 200)
    assert audited()[0]["user"] is None


def sample(app: FastAPI, name: str, **labels: str) -> float | None:
    return app.state.observer.metrics.registry.get_sample_value(name, labels)


def test_a_worker_threads_notes_and_stages_are_reported(app, audited):
    answer = ask(app, "POST", "/infer/sam_tiny?image=doe_jane")
    assert 299 < answer.json()["remaining"] < 300
    (entry,) = audited()
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert (entry["route"], entry["method"], entry["status"], entry["outcome"]) == ("/infer/{model}", "POST", 200, "ok")
    assert (entry["model"], entry["user"], entry["prompts"]) == ("sam_tiny", "anna", {"foreground": 1})
    assert entry["client"] == "192.0.2.7" and 0 < entry["latency_ms"] < 5000 and entry["kind"] == "request"
    labels = {"method": "POST", "route": "/infer/{model}", "status": "200"}
    assert sample(app, "sam_http_requests_total", **labels) == 1
    assert sample(app, "sam_http_request_seconds_count", route="/infer/{model}") == 1
    assert sample(app, "sam_stage_seconds_count", stage="encode") == 1


def test_an_answer_says_how_long_the_stages_of_its_work_took(app):
    @app.post("/segment_input_image/")
    def slow() -> None:
        with current_clock().stage("read"):
            time.sleep(0.02)
        with current_clock().stage("decode"):
            time.sleep(0.01)
        raise HTTPException(422, "such an answer says it, too")

    found = ask(app, "POST", "/segment_input_image/").headers["server-timing"]
    timing = dict(part.split(";dur=") for part in found.split(", "))
    assert list(timing) == ["read", "decode", "total"]
    assert 20 <= float(timing["read"]) < 1000 and 10 <= float(timing["decode"]) < 1000
    assert float(timing["read"]) + float(timing["decode"]) <= float(timing["total"]) + 0.2  # each is rounded
    nothing_done = ask(app, "GET", "/info/").headers
    assert "server-timing" not in nothing_done and "timing-allow-origin" not in nothing_done


def test_what_the_app_refuses_is_reported_without_its_words(app, audited):
    assert ask(app, "GET", "/datastore/missing").status_code == 404
    assert (audited()[0]["status"], audited()[0]["outcome"]) == (404, "refused")
    assert "doe" not in json.dumps(audited())


def test_an_unhandled_error_is_answered_reported_and_does_not_reach_the_server(app, audited):
    answers: list[int] = []

    async def server() -> None:
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                answers.append(message["status"])
                assert b"x-content-type-options" in dict(message["headers"])

        await app(http_scope("GET", "/datastore/broken"), receive, send)

    asyncio.run(server())
    assert answers == [500]
    (entry,) = audited()
    assert (entry["status"], entry["outcome"], entry["reason"]) == (500, "failed", "RuntimeError")
    assert "doe" not in json.dumps(entry)


def http_scope(method: str, path: str) -> dict[str, object]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": ("server", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }


def test_an_answer_that_breaks_off_is_reported_and_the_server_told(app, audited):
    async def server(app: ASGIApp) -> None:
        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            pass

        await app(http_scope("GET", "/datastore/torn"), receive, send)

    with pytest.raises(RuntimeError, match="disk gone"):
        asyncio.run(server(app))
    (entry,) = audited()
    assert (entry["status"], entry["outcome"], entry["reason"]) == (200, "disconnected", "RuntimeError")


def test_a_client_that_goes_while_it_uploads_is_reported(app, audited):
    async def server() -> None:
        messages = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            pass

        await app(http_scope("PUT", "/datastore/image"), receive, send)

    asyncio.run(server())
    (entry,) = audited()
    assert entry["outcome"] == "disconnected" and entry["client"] is None


def test_a_request_that_is_cancelled_is_reported(app, audited):
    async def server() -> None:
        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            raise AssertionError("nothing was to be answered")

        task = asyncio.create_task(app(http_scope("PUT", "/datastore/image"), receive, send))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(server())
    (entry,) = audited()
    assert (entry["status"], entry["outcome"]) == (None, "disconnected")
    labels = {"method": "PUT", "route": "/datastore/image", "status": "none"}
    assert sample(app, "sam_http_requests_total", **labels) == 1


def test_what_touches_no_image_is_counted_but_not_audited(app, audited):
    assert ask(app, "GET", "/info/").json() == "192.0.2.7"
    assert ask(app, "GET", "/doe_jane").status_code == 404
    assert ask(app, "BREW", "/doe_john").status_code == 404
    assert audited() == []
    assert sample(app, "sam_http_requests_total", method="GET", route="/info/", status="200") == 1
    assert sample(app, "sam_http_requests_total", method="GET", route="unmatched", status="404") == 1
    assert sample(app, "sam_http_requests_total", method="other", route="unmatched", status="404") == 1
    assert b"doe" not in app.state.observer.metrics.exposition()


def test_a_queued_segmentation_gets_a_line_of_its_own(app, audited, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    record = RequestRecord(user="anna", timestamp="1.000000", reason="ImageError")
    clock = Clock()
    with clock.stage("read"):
        pass
    app.state.observer.job_ended(record, clock, 422)
    (entry,) = audited()
    assert (entry["kind"], entry["route"], entry["method"]) == ("job", "/segment_input_image/", None)
    assert (entry["status"], entry["outcome"], entry["reason"]) == (422, "refused", "ImageError")
    assert (entry["user"], entry["timestamp"]) == ("anna", "1.000000")
    assert sample(app, "sam_jobs_total", outcome="refused") == 1
    assert sample(app, "sam_stage_seconds_count", stage="read") == 1

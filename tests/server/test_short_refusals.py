"""What a client is told is short, however long the value is that was wrong, or how many were."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict

from lib.sam.prompts import PromptError
from lib.server.http.errors import ERROR_HANDLERS, failure_of
from support.asgi import ask


class Points(BaseModel):
    model_config = ConfigDict(extra="forbid")

    points: list[int] = []


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(exception_handlers=ERROR_HANDLERS)

    @app.get("/refused/{kind}")
    def refused(kind: str, length: int) -> None:
        text = f"there is no {'x' * length}; there are: a, b"
        raise PromptError(text) if kind == "ours" else HTTPException(404, text, {"Retry-After": "1"})

    @app.post("/points")
    def points(points: Points) -> None:
        pass

    return app


@pytest.mark.parametrize("kind", ["ours", "of FastAPI"])
def test_a_long_message_loses_its_middle(app, kind):
    long = ask(app, "GET", f"/refused/{kind}?length=1000000")
    assert long.status_code in (404, 422) and len(long.content) < 1100
    assert long.json()["detail"].startswith("there is no xxx") and long.json()["detail"].endswith("x; there are: a, b")
    assert ask(app, "GET", f"/refused/{kind}?length=20").json()["detail"] == f"there is no {'x' * 20}; there are: a, b"


def test_the_headers_of_a_refusal_stay(app):
    assert ask(app, "GET", "/refused/other?length=5").headers["Retry-After"] == "1"


def test_a_batch_tells_the_same():
    assert len(failure_of(PromptError("x" * 10_000)).detail) < 1100


def test_of_many_faults_the_first_are_told(app):
    many = ask(app, "POST", "/points", json={"points": ["x"] * 10_000})
    assert many.status_code == 422 and len(many.content) < 5000
    assert [fault["loc"] for fault in many.json()["detail"]] == [["body", "points", number] for number in range(20)]


def test_a_long_name_of_a_field_is_shortened(app):
    odd = ask(app, "POST", "/points", json={"x" * 100_000: 1})
    assert odd.status_code == 422 and len(odd.content) < 1300
    assert odd.json()["detail"][0]["msg"] == "Extra inputs are not permitted"

"""Bounds on forms: their parts, and what of them is kept in memory."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, File, Form, UploadFile
from starlette import requests

from lib.server.http.errors import ERROR_HANDLERS
from lib.server.http.forms import MAX_PARTS, MAX_SESSION_FILES, spool_forms
from support.asgi import ask

NAMELESS = b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"


@pytest.fixture
def app(monkeypatch) -> FastAPI:
    monkeypatch.setattr(requests, "MultiPartParser", requests.MultiPartParser)
    app = FastAPI(exception_handlers=ERROR_HANDLERS, form_limits={"max_fields": MAX_PARTS, "max_files": MAX_PARTS})
    session = APIRouter(form_limits={"max_files": MAX_SESSION_FILES})

    @app.post("/one")
    def one(params: Annotated[str, Form()] = "{}", file: Annotated[UploadFile | None, File()] = None) -> int:
        return len(params)

    @session.put("/session")
    def many(files: Annotated[list[UploadFile], File()]) -> list[bool]:
        return [file._in_memory for file in files]

    app.include_router(session)
    spool_forms()
    return app


def fields(count: int, size: int = 1) -> list[tuple[str, tuple[None, bytes]]]:
    return [(f"field{number}", (None, b"x" * size)) for number in range(count)]


def files(count: int, size: int = 1) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", ("x", b"x" * size)) for _ in range(count)]


@pytest.mark.parametrize("parts", [fields, files], ids=["fields", "files"])
def test_the_number_of_parts_is_bounded(app, parts):
    assert ask(app, "POST", "/one", files=parts(MAX_PARTS)).status_code == 200
    answer = ask(app, "POST", "/one", files=parts(MAX_PARTS + 1))
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("the form is larger than allowed: Too many fi")
    assert str(MAX_PARTS) in answer.json()["detail"]


def test_the_fields_of_a_plain_form_are_bounded(app):
    many = {f"field{number}": "x" for number in range(MAX_PARTS + 1)}
    assert ask(app, "POST", "/one", data=many).status_code == 413


def test_a_text_field_is_bounded(app):
    answer = ask(app, "POST", "/one", files=[("params", (None, b"x" * (2**20 + 1)))])
    assert answer.status_code == 413 and "1024KB" in answer.json()["detail"]


def test_a_malformed_form_is_still_400(app):
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(app, "POST", "/one", headers=headers, content=NAMELESS).status_code == 400


def test_a_session_takes_many_files_most_of_them_on_disk(app):
    in_memory = ask(app, "PUT", "/session", files=files(40, 20_000)).json()
    assert in_memory == [True] * MAX_PARTS + [False] * (40 - MAX_PARTS)
    assert ask(app, "PUT", "/session", files=files(MAX_SESSION_FILES + 1)).status_code == 413

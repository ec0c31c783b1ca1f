"""The server's app as a whole: which of its parts stands where, seen from outside, and what it documents."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import monailabel.app
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.routing import iter_route_contexts

import rest_reference
from lib.server.app import create_app
from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.server.upstream.seam import serve
from lib.version import VERSION
from support.asgi import ask
from support.in_process import made_app

FOREIGN = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
FAILS = "/datastore/fails"


@pytest.fixture(scope="module", params=["open", "with keys"])
def served(request, tmp_path_factory) -> Iterator[tuple[FastAPI, dict[str, str], Path]]:
    """The app, the headers of somebody who may use it, and its audit log."""
    folder = tmp_path_factory.mktemp("server")
    conf, login = {}, {}
    if request.param == "with keys":
        key, entry = make_key("viewer", ["user"], None)
        KeyFile(folder / "keys.json").add(entry)
        conf, login = {"api_keys": str(folder / "keys.json")}, {"Authorization": f"Bearer {key}"}
    with made_app(folder / "app", **conf) as sam_app:
        app = create_app(sam_app)

        @app.get(FAILS)
        def fail() -> None:
            raise RuntimeError("could not open doe_jane.nii.gz")

        yield app, login, sam_app.options.audit_log
        app.state.observer.audit.close()
        app.state.segmentation_service.store.close()


@pytest.fixture
def send(served):
    app, login, _ = served

    def send(method: str, path: str, headers: dict[str, str] | None = None, **kwargs) -> httpx.Response:
        return ask(app, method, path, headers={**login, **(headers or {})}, **kwargs)

    return send


def test_an_error_that_nobody_foresaw_is_answered_observed_and_says_nothing(served, send):
    failed = send("GET", FAILS, headers={"Origin": "http://localhost"})
    assert (failed.status_code, failed.json()) == (500, {"detail": "the server failed; its log says why"})
    assert failed.headers["x-frame-options"] == "SAMEORIGIN"
    lines = [json.loads(line) for line in served[2].read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == failed.headers["x-request-id"]]
    assert (line["route"], line["status"], line["reason"]) == (FAILS, 500, "RuntimeError")


def test_what_is_refused_before_any_route_is_observed_and_protected_too(send):
    for refused in (
        send("POST", "/segment_input_image/", headers=FOREIGN),
        send("GET", "/info/", headers={"Host": "rebound.example"}),
        send("GET", "/nowhere"),
    ):
        assert refused.status_code in (403, 404, 421) and refused.json()["detail"]
        assert refused.headers["x-request-id"] and refused.headers["x-content-type-options"] == "nosniff"


def test_a_page_of_an_allowed_origin_can_read_refusals_and_needs_no_login_to_ask_whether_it_may(send):
    origin = {"Origin": "http://localhost:3000"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Authorization": ""}
    assert send("OPTIONS", "/segment_input_image/", headers=asked).status_code == 200
    refused = send("POST", "/segment_input_image/", headers={**origin, "Authorization": "Bearer none"}, json={})
    assert refused.status_code in (401, 415)
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "access-control-allow-origin" not in send("GET", "/health_check/", headers=FOREIGN).headers


def test_redirects_name_no_host(send):
    moved = send("GET", "/health_check", headers={"Host": "127.0.0.1:1"})
    assert moved.status_code == 307 and moved.headers["location"] == "/health_check/"


def test_bodies_are_bounded_and_whole_on_every_route(send):
    assert send("POST", "/segment_input_image/", data={"sam_input": "x" * 2**20}).status_code == 413
    torn = {"Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="sam_input"\r\n\r\n{}\r\n'
    refused = send("POST", "/segment_input_image/", headers=torn, content=body)
    assert refused.status_code == 400 and "closing boundary" in refused.json()["detail"]
    coded = send("POST", "/segment_input_image/", headers={**torn, "Content-Encoding": "gzip"}, content=body)
    assert coded.status_code == 415 and "Content-Encoding" in coded.json()["detail"]
    many = [("part", (None, b"x"))] * 17
    assert send("POST", "/segment_input_image/", files=many).status_code == 413


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/static/favicon.ico", "/favicon.ico", "/sam/"])
def test_pages_and_files_that_come_with_the_software_are_served(send, path):
    found, head = send("GET", path), send("HEAD", path)
    assert found.status_code == head.status_code == 200 and found.content and not head.content


def test_the_documentation_has_every_route_once_and_the_login_where_one_is_needed(served, send):
    document = send("GET", "/openapi.json").json()
    assert document["info"]["title"] == "SAM segmentation"
    assert "(sam/)" in document["info"]["description"] and document["info"]["version"] == VERSION
    paths = document["paths"]
    expected = {"/segment_input_image/", "/get_dicom_image/{timestamp}", "/metrics", "/info/", "/infer/{model}"}
    assert expected <= paths.keys() and "/logs/" not in paths
    asks = {path: "security" in next(iter(paths[path].values())) for path in ("/info/", "/health_check/")}
    assert asks == {"/info/": bool(served[1]), "/health_check/": False}
    assert not [one for one in paths["/datastore/"]["get"]["parameters"] if one["name"] == "token"]
    if served[1]:
        made_without_a_server = rest_reference.openapi()["paths"]
        assert made_without_a_server == {path: of_path for path, of_path in paths.items() if path != FAILS}


def test_sam_input_is_documented_as_the_object_that_it_is(send):
    """As text with a media type Swagger UI would ask for a file; of an object it shows the example, to be edited."""
    document = send("GET", "/openapi.json").json()
    form = document["paths"]["/segment_input_image/"]["post"]["requestBody"]["content"]["multipart/form-data"]
    schemas = document["components"]["schemas"]
    parts = schemas[form["schema"]["$ref"].rpartition("/")[2]]["properties"]
    assert parts["sam_input"]["$ref"] == "#/components/schemas/SAMInput"
    assert schemas["SAMInput"]["examples"][0]["positive_points"]
    assert "contentMediaType" in str(parts["file"])


def test_a_route_asks_for_the_role_that_the_user_s_key_has(served, send):
    app, login, _ = served
    assert send("GET", "/metrics").status_code == 200
    assert ask(app, "GET", "/metrics").status_code == (401 if login else 200)
    if login:
        assert send("DELETE", "/datastore/label?id=ball&tag=final").status_code == 403


def test_monai_label_s_app_hands_requests_on(served, monkeypatch):
    monkeypatch.setattr(monailabel.app.app, "middleware_stack", None)
    assert ask(monailabel.app.app, "GET", "/health_check/").status_code == 404
    serve(served[0])
    through = ask(monailabel.app.app, "GET", "/health_check/", headers=served[1])
    assert through.json()["default_model"] == "sam_tiny" and through.headers["x-request-id"]


def test_no_click_or_upload_waits_for_a_thread_that_runs_a_dependency(served):
    app = served[0]
    segmenting = ("/infer/{model}", "/segment_input_image/", "/health_check/")
    routes = [route for route in iter_route_contexts(app.routes) if route.path in segmenting]
    assert {route.path for route in routes} == set(segmenting)
    called = [call for route in routes for call in _dependencies(app, route.dependant)]
    in_threads = {str(call) for call in called if _in_thread(call)}
    assert not in_threads


def _dependencies(app: FastAPI, dependant: Dependant) -> Iterator[Callable]:
    """What FastAPI calls for a route before the route itself."""
    for needed in dependant.dependencies:
        replaced = app.dependency_overrides.get(needed.call, needed.call)
        yield replaced
        again = needed if replaced is needed.call else get_dependant(path="/", call=replaced)
        yield from _dependencies(app, again)


def _in_thread(call: Callable) -> bool:
    if isinstance(call, type):
        return True
    return not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(type(call).__call__)

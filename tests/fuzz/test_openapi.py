"""What the server answers is what ``/openapi.json`` says it can, whatever a client that reads it makes of it."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.fuzzing import AMOUNTS, fuzz

pytestmark = pytest.mark.server

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
ROUTES = (
    ("/segment_input_image/", "POST"),
    ("/get_segmented_image/{timestamp}", "GET"),
    ("/get_dicom_image/{timestamp}", "GET"),
    ("/health_check/", "GET"),
)


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_answers_are_as_documented(target, originals, path: str, method: str, amount) -> None:
    schema = schemathesis.openapi.from_url(target.server.url + "/openapi.json")
    operation = schema[path][method]
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if method == "POST" or "{" in path:
        cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    done = target.segment(originals["PNG grey"], b'{"automatic": false}').json()["timestamp"]
    statuses = set()

    @fuzz(amount(25), cases, st.booleans())
    def call(case, in_earnest) -> None:
        if in_earnest and "{" in path:
            case.path_parameters = {"timestamp": str(done)}
        if in_earnest and method == "POST":
            response = target.segment(originals["PNG grey"], b'{"automatic": false}', prefer=str(case.headers or ""))
        else:
            response = case.call(timeout=30)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    call()
    assert 200 in statuses

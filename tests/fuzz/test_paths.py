"""Timestamps that are none: no path leads out of the results, and nothing but results is served."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from support.fuzzing import AMOUNTS, fuzz

pytestmark = pytest.mark.server

ROUTES = ("/get_segmented_image/", "/get_dicom_image/")
TRICKS = (
    "../",
    "..",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252f",
    "..%5c..%5cx",
    "%00",
    "1732288000.12%00",
    "1732288000.12/../../x",
    ".lock",
    ".1732288000.120000.part",
    "9" * 8000,
    "0." + "0" * 5000 + "1",
    "-1",
    "+1",
    "1e9",
    "NaN",
    "Infinity",
    "0x10",
    "1_000",
    "%D9%A1%D9%A2",  # digits of another script
    "1732288000,12",
    "%20",
    "1732288000.12%0d%0aX-Injected:%201",
    "%ff%fe",
    "manifest.json",
)

REFUSALS = (307, 400, 404, 405, 414, 422)
"""307: to the same without a slash at its end."""


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("route", ROUTES)
def test_tricks(target, route: str, trick: str) -> None:
    status, body = target.raw("GET", route + trick)
    assert status in REFUSALS, (status, body[:200])
    assert b"root:" not in body


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_text(target, amount) -> None:
    text = st.text(max_size=40).map(lambda value: quote(value.encode("utf-8", "surrogatepass"), safe=""))
    other = st.binary(max_size=30).map(lambda value: quote(value, safe=""))
    query = st.sampled_from(
        ("", "?view=mask", "?view=../x", "?type=seg", "?candidate=99999999999999999999", "?view=mask&view=x")
    )

    @fuzz(amount(40), st.sampled_from(ROUTES), text | other | st.sampled_from(TRICKS), query)
    def ask(route, timestamp, query) -> None:
        status, body = target.raw("GET", route + timestamp + query)
        assert status in REFUSALS, (status, body[:200])

    ask()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
@pytest.mark.parametrize("route", [*(route + "1732288000.12" for route in ROUTES), "/segment_input_image/"])
def test_other_methods(target, method: str, route: str) -> None:
    assert target.raw(method, route)[0] in (400, 404, 405, 422)

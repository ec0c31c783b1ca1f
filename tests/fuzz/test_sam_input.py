"""``sam_input`` of any kind: done, or refused with a reason."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from hypothesis import strategies as st

from support.fuzzing import AMOUNTS, fuzz
from support.hostile import SAM_INPUTS
from support.phantoms import BALL_AFFINE

pytestmark = pytest.mark.server

ANSWERS = {200, 400, 404, 413, 422}


@pytest.mark.parametrize("amount", AMOUNTS)
def test_wrong_values(target, originals, amount) -> None:
    volume = nibabel.Nifti1Image(np.arange(240, dtype=np.int16).reshape(8, 6, 5), BALL_AFFINE).to_bytes()
    outcomes = set()

    @fuzz(amount(60), SAM_INPUTS, st.sampled_from((originals["PNG grey"], volume)), st.booleans())
    def send(sam_input, image, ascii_only) -> None:
        text = json.dumps({"automatic": False, **sam_input}, ensure_ascii=ascii_only)
        outcomes.add(target.segment(image, text.encode("utf-8", "surrogatepass")).status_code)

    send()
    assert {200, 422} <= outcomes <= ANSWERS


@pytest.mark.parametrize("amount", AMOUNTS)
def test_what_is_no_such_json(target, originals, amount) -> None:
    valid = json.dumps({"positive_points": [{"x": 2, "y": 2}], "label": "病変"}, ensure_ascii=False).encode()
    cut = st.integers(0, len(valid) - 1).map(lambda end: valid[:end])
    overwritten = st.tuples(st.integers(0, len(valid) - 1), st.binary(min_size=1, max_size=3)).map(
        lambda change: valid[: change[0]] + change[1] + valid[change[0] + len(change[1]) :]
    )

    @fuzz(amount(20), cut | overwritten | st.binary(max_size=40))
    def send(text) -> None:
        safe = text.replace(b"\r\n--", b"")
        if not safe or safe.isspace():  # nothing to do is automatic segmentation: slow, and no fault
            return
        assert target.segment(originals["PNG grey"], safe).status_code in ANSWERS

    send()


def points(count: int) -> bytes:
    return json.dumps({"positive_points": [{"x": 1 + n % 5, "y": 1 + n % 7} for n in range(count)]}).encode()


EXTREMES = {
    "10,000 points": (points(10_000), 422),
    "100,000 rectangles": (
        b'{"rectangles": [' + b'{"startX":0,"startY":0,"width":9,"height":9},' * 99_999 + b"{}]}",
        413,
    ),
    "NaN": (b'{"positive_points": [{"x": NaN, "y": 1}]}', 422),
    "Infinity": (b'{"positive_points": [{"x": Infinity, "y": 1}]}', 422),
    "beyond a double": (b'{"positive_points": [{"x": 1e999, "y": 1}]}', 422),
    "5,000 digits": (b'{"frame": ' + b"9" * 5000 + b"}", 422),
    "100,000 lists": (b'{"positive_points": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
    "100,000 objects": (b'{"window": ' + b'{"center":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 413),
    "no UTF-8": (b'{"label": "\xff\xfe", "automatic": false}', 200),  # Starlette takes it for Latin-1
    "a surrogate": (b'{"label": "\\ud800"}', 422),
    "NUL in a label": (b'{"label": "a\\u0000b", "automatic": false}', 422),
    "backslash in a label": (b'{"label": "a\\\\b", "automatic": false}', 422),
    "a control character": (b'{"label": "a\\u001bb", "automatic": false}', 422),
    "a path as model": (b'{"model": "../../etc/passwd"}', 404),
    "a path as refine": (b'{"refine": "../../etc/passwd"}', 422),
    "no object": (b"[]", 422),
    "text": (b"hello", 422),
    "the same name twice": (b'{"automatic": false, "frame": 0, "frame": 99}', 422),
    "unknown field": (b'{"automatic": false, "__proto__": {}}', 422),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(target, originals, name) -> None:
    text, status = EXTREMES[name]
    answer = target.segment(originals["PNG grey"], text)
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 100_000, "the answer repeats what was wrong without end"
    assert answer.elapsed.total_seconds() < 10


BOUNDARY = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
BODIES = {
    "nothing": (b"", BOUNDARY),
    "no boundary": (b"--b--\r\n", "multipart/form-data"),
    "another boundary": (b"--c--\r\n", BOUNDARY),
    "no end": (PART + b"abc", BOUNDARY),
    "10,000 parts": (
        PART + b"a" + b'\r\n--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1' * 10_000 + b"\r\n--b--\r\n",
        BOUNDARY,
    ),
    "a header without end": (b"--b\r\nContent-Disposition: " + b"x" * 1_000_000, BOUNDARY),
    "JSON": (b'{"file": "x"}', "application/json"),
    "a form": (b"file=x&sam_input={}", "application/x-www-form-urlencoded"),
    "an unknown charset": (PART + b"\r\n--b--\r\n", BOUNDARY + "; charset=nonsense"),
    "the file as text": (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--b--\r\n', BOUNDARY),
    "two files": (PART + b"abc\r\n" + PART + b"def\r\n--b--\r\n", BOUNDARY),
    "sam_input as file": (
        PART + b'abc\r\n--b\r\nContent-Disposition: form-data; name="sam_input"; filename="y"\r\n\r\n{}\r\n--b--\r\n',
        BOUNDARY,
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_such_form(target, name) -> None:
    body, kind = BODIES[name]
    assert target.post(body, {"Content-Type": kind}).status_code in (400, 413, 415, 422)

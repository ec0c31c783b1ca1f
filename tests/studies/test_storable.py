"""What may be kept as JSON."""

from __future__ import annotations

import json
import math

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st

from lib.studies.storable import MAX_BYTES, MAX_DEPTH, MAX_INTEGER, check_info, check_storable, valid_info


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, {"b": math.nan}]}, "a[1].b is not a finite number"),
        ({"a": -math.inf}, "a is not a finite number"),
        ({"a": {"b": "x\ud800"}}, "a.b is not valid text"),
        ({"a": {"\udfff": 1}}, "a has a key that is not valid text"),
        ({"a\n": [math.nan]}, r"'a\n'[0] is not a finite number"),
        ({"a": MAX_INTEGER + 1}, "a is an integer beyond 9007199254740991"),
        ({"a": -(10**400)}, "a is an integer beyond"),
        (nested(MAX_DEPTH + 1), "is nested deeper than 32 levels"),
        ({"a": "ä" * (MAX_BYTES // 2)}, "larger than 1048576 bytes"),
    ],
)
def test_what_a_client_could_not_read_again_is_refused_with_its_place(value, said):
    with pytest.raises(HTTPException) as refused:
        check_storable(value)
    assert refused.value.status_code == 422 and said in refused.value.detail
    refused.value.detail.encode()


@pytest.mark.parametrize(
    "value",
    [
        {},
        nested(MAX_DEPTH),
        {"a": [None, True, -0.5, 1e300, MAX_INTEGER, -MAX_INTEGER, "نهایی 🫁\x00", [], {"": ""}]},
        {"label_info": [{"name": "liver", "idx": 1}], "strategy": {"random": {"ts": 1, "client_id": "x"}}, "ts": 2.5},
    ],
)
def test_what_is_json_is_kept_as_it_is(value):
    check_info(value)
    assert valid_info(value) == (value, [])


@pytest.mark.parametrize(
    ("info", "key"),
    [
        *(({"strategy": value}, "strategy") for value in ([1], "x", {"random": 3}, {"random": {"ts": "late"}}, None)),
        *(({"ts": value}, "ts") for value in ("now", [], True)),
        *(({"name": value}, "name") for value in (1, ["a"], None)),
    ],
)
def test_keys_that_the_server_reads_are_of_their_types(info, key):
    with pytest.raises(HTTPException) as refused:
        check_info({**info, "other": 1})
    assert refused.value.status_code == 422 and f"{key} must be" in refused.value.detail
    assert valid_info({**info, "other": 1})[0] == {"other": 1}


odd_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
)


@given(st.dictionaries(st.sampled_from(["a", "strategy", "ts", "name", "\ud800"]), odd_json))
def test_what_is_left_can_be_kept_and_what_can_be_kept_is_left(info):
    regular, odd = valid_info(info)
    check_info(regular)
    json.dumps(regular, allow_nan=False, ensure_ascii=False).encode()
    assert bool(odd) == (regular != info)
    try:
        check_info(info)
    except HTTPException:
        assert odd
    else:
        assert not odd


@pytest.mark.parametrize("info", [None, [], 3, "x"])
def test_an_info_that_is_no_object_is_none(info):
    assert valid_info(info) == ({}, ["info is not an object"])

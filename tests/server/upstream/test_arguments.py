from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi import HTTPException
from hypothesis import example, given
from hypothesis import strategies as st

from lib.server.upstream.arguments import json_object, label_tag, plain_name

FOLDER = Path("/a/folder/of/the/server")
parts = st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "ä", " ", "\x00", "\n", "~", "C:", ".nii.gz"]), max_size=8)


@given(st.one_of(st.text(), parts.map("".join)))
@example("..")
@example("a/../../b")
@example("\ud800")
def test_whatever_a_client_names_a_file_it_stays_in_its_folder(name):
    try:
        plain = plain_name(name)
    except HTTPException as error:
        assert error.status_code == 422
    else:
        assert plain == name and len(f"{plain}.nii.gz".encode()) < 255
        assert (FOLDER / f"{plain}.nii.gz").resolve().parent == FOLDER


@given(st.one_of(st.text(), parts.map("".join)))
def test_whatever_a_client_takes_for_a_tag_it_names_one_folder(tag):
    try:
        name = label_tag(tag)
    except HTTPException as error:
        assert error.status_code == 422
    else:
        assert (FOLDER / name).resolve().parent == FOLDER


@pytest.mark.parametrize("tag", ["final", "original", "my-tag_2", "نهایی", "अंति\u200dम", "最終版", "tag 2.1"])
def test_tags_that_clients_use_are_taken(tag):
    assert label_tag(tag) == tag
    assert label_tag("") == "final"


@pytest.mark.parametrize("text", ["[]", "1", "{", '{"a"', "[" * 100_000, "null"])
def test_params_that_are_no_object_are_refused(text):
    with pytest.raises(HTTPException, match="JSON object"):
        json_object(text)


def test_params_keep_what_they_say():
    assert json_object('{"label_info": [{"idx": 1}], "name": "ct.nii.gz"}') == (
        '{"label_info": [{"idx": 1}], "name": "ct.nii.gz"}'
    )
    assert json_object("") == "{}"


@pytest.mark.parametrize(
    "name",
    [
        "غده\u200cی تیروئید.nii.gz",
        "क्ष\u200dय.nii",
        "右\u3000腎.nrrd",
        "rein\u00a0gauche.nii.gz",
        "כָּבֵד.nii.gz",
        "La\u0308sion.png",
        "🫁.nii.gz",
        'tumour 5".nii.gz',
        "1.2..3.nii.gz",
    ],
)
def test_names_of_files_may_be_in_any_language(name):
    assert plain_name(name) == name
    assert json.loads(json_object(json.dumps({"name": name}))) == {"name": name}


@pytest.mark.parametrize(
    "name", ["a\u202egpj.exe", "a\u2067b", "a\u2028b", "a\x85b", "a\ud800", "\u200c", "..", ".a", "a/b", "a\\b"]
)
def test_names_that_mislead_or_leave_their_folder_are_refused(name):
    for check in (plain_name, label_tag):
        with pytest.raises(HTTPException):
            check(name)

from __future__ import annotations

import pytest

from lib.dicomweb.dicom_seg import algorithm_name, segment_names


@pytest.mark.parametrize(
    ("label_info", "values", "names"),
    [
        ([{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 5}], [2, 5], ["liver", "spleen"]),
        ([{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 5}], [5], ["spleen"]),
        ([{"name": "liver", "idx": 2}], [1, 2], ["Segment 1", "liver"]),
        ([{"name": "liver"}, {"name": "spleen"}], [3, 9], ["liver", "spleen"]),
        ([{"name": "liver"}], [3, 9], ["liver", "Segment 9"]),
        ([{"name": "liver", "idx": 1}], [], ["liver"]),
        ([], [], ["Segment 1"]),
        (None, [4], ["Segment 4"]),
        ("liver", [4], ["Segment 4"]),
        ([None, 7, {"name": None}, {}], [4], ["Segment 4"]),
        ([{"name": "غده\u200cی تیروئید", "idx": 1}], [1], ["غده\u200cی تیروئید"]),
        ([{"name": "क्ष\u200dय\u202e", "idx": 1}], [1], ["क्ष\u200dय"]),
        ([{"name": "\u200c", "idx": 1}], [1], ["Segment 1"]),
        ([{"name": "a\\b\n" + "c" * 100, "idx": 1}], [1], ["ab" + "c" * 61 + "…"]),
    ],
)
def test_names(label_info, values, names):
    assert segment_names(label_info, values) == names


@pytest.mark.parametrize(
    ("label_info", "name"),
    [([{"model_name": "mine"}], "mine"), ([{}], "sam"), ([], "sam"), (None, "sam"), (["x"], "sam")],
)
def test_the_algorithm(label_info, name):
    assert algorithm_name(label_info, "sam") == name

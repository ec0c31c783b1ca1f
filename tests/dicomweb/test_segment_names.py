from __future__ import annotations

import pytest

from lib.dicomweb.dicom_seg import algorithm_names, segment_names


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
    ("label_info", "values", "names"),
    [
        ([{"model_name": "mine"}], [1], ["mine"]),
        (
            [{"model_name": "mine", "idx": 2}, {"model_name": "other", "idx": 1}, {"idx": 4}],
            [1, 2, 4],
            ["other", "mine", "mine"],
        ),
        ([{"name": "a"}, {"name": "b", "model_name": "mine"}], [3, 5], ["sam", "mine"]),
        ([{"model_name": "mine"}], [], ["mine"]),
        *((nothing, [1, 2], ["sam", "sam"]) for nothing in ([{}], [], None, ["x"])),
    ],
)
def test_the_algorithms(label_info, values, names):
    assert algorithm_names(label_info, values, "sam") == names

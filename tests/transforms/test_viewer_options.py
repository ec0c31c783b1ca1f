import pytest

from lib.sam.prompts import PromptError
from lib.transforms.viewer_options import ViewerOptionsd


@pytest.mark.parametrize(
    ("candidates", "multimask"),
    [
        ("auto", None),
        ("single", False),
        ("best of three", True),
        (None, None),
        (["auto", "single", "best of three"], None),  # what MONAI Label fills in when the client chose nothing
    ],
)
def test_candidates(candidates, multimask):
    assert ViewerOptionsd()({"candidates": candidates})["multimask"] is multimask


@pytest.mark.parametrize(
    ("value", "flag"),
    [(True, True), ("true", True), ("True", True), (1, True), (False, False), ("", False), (0, False)],
)
@pytest.mark.parametrize("name", ["box_from_points", "largest_component", "fill_holes"])
def test_boxes_that_are_ticked(name, value, flag):
    assert ViewerOptionsd()({name: value})[name] is flag


def test_what_is_not_sent_is_off():
    options = ViewerOptionsd()({})
    assert options == {"multimask": None, "box_from_points": False, "largest_component": False, "fill_holes": False}


@pytest.mark.parametrize(
    "data", [{"candidates": "four"}, {"candidates": 3}, {"fill_holes": "maybe"}, {"fill_holes": [1]}]
)
def test_what_cannot_be_chosen_is_refused(data):
    with pytest.raises(PromptError, match="candidates can be|must be true or false"):
        ViewerOptionsd()(data)

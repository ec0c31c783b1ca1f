import pytest

from lib.imaging.image import Window
from lib.sam.prompts import PromptError
from lib.transforms.viewer_options import WINDOWS, ViewerOptionsd, check_options


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
    flags = {"box_from_points": False, "largest_component": False, "fill_holes": False}
    assert options == {"window": "auto", "multimask": None, **flags}


@pytest.mark.parametrize(
    ("window", "meant"),
    [
        (None, "auto"),
        ("", "auto"),
        (WINDOWS, "auto"),  # what MONAI Label fills in when the client chose nothing
        ("lung", "lung"),
        ({"center": 400, "width": 800}, Window(400, 800)),
        ({"width": 1.5, "center": -3.5}, Window(-3.5, 1.5)),
    ],
)
def test_windows(window, meant):
    assert ViewerOptionsd()({"window": window})["window"] == meant


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("candidates", value) for value in ("four", 3, {}, [], ["single"], True, {"single": 1})),
        *(("fill_holes", value) for value in ("maybe", [1], {}, [], 2, 0.5)),
        ("box_from_points", {}),
        ("largest_component", [True]),
        *(("window", value) for value in (5, 0, True, False, [], {}, ["lung"], "lungs", 40.5, [40, 400])),
        ("window", {"center": 40}),
        ("window", {"center": "40", "width": "400"}),
        ("window", {"center": 40, "width": True}),
        ("window", {"center": 40, "width": 0}),
        ("window", {"center": 40, "width": -400}),
        ("window", {"center": float("nan"), "width": 400}),
        ("window", {"center": 40, "width": 10**400}),
        ("window", {"center": 40, "width": 400, "functions": "SIGMOID"}),
        ("window", {"center": 40, "width": 400, "x": "y" * 1000}),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_its_name(option, value):
    with pytest.raises(PromptError, match=option) as refused:
        ViewerOptionsd()({option: value})
    assert len(str(refused.value)) < 300
    with pytest.raises(PromptError, match=option):
        check_options({option: value})


def test_what_is_not_known_is_left_alone():
    assert ViewerOptionsd()({"another": [1]})["another"] == [1]

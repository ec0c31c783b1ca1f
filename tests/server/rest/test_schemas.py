from __future__ import annotations

import pytest
from pydantic import ValidationError

from lib.imaging.image import Window
from lib.server.rest.schemas import SAMInput
from lib.transforms.sam_input import WindowInput


@pytest.mark.parametrize(
    "label", ["غده\u200cی تیروئید", "क्ष\u200dय", "右\u3000腎", "rein\u00a0gauche", "כָּבֵד", "👨\u200d⚕️"]
)
def test_labels_may_be_in_any_language(label):
    assert SAMInput(label=label).label == label


def test_the_spaces_around_a_label_are_not_of_it():
    assert SAMInput(label="\u3000liver\u00a0").label == "liver"


@pytest.mark.parametrize(
    "label", ["a\nb", "a\\b", "\u202eliver", "a\u2069", "a\u2028", "\u200c", " ", "a\ud800", "a" * 61]
)
def test_labels_that_mislead_or_that_dicom_cannot_hold_are_refused(label):
    with pytest.raises(ValidationError):
        SAMInput(label=label)


def test_a_window_narrower_than_linear_allows_is_exact():
    assert WindowInput(center=0.5, width=0.25).as_window() == Window(0.5, 0.25, "LINEAR_EXACT")
    assert WindowInput(center=40, width=400).as_window() == Window(40, 400)
    for width in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            WindowInput(center=0, width=width)


@pytest.mark.parametrize(
    ("drawn", "where"),
    [
        ({"scribbles": [{"points": []}]}, "points"),
        ({"scribbles": [{"points": [{"x": 1, "y": 1}], "width": 0}]}, "width"),
        ({"scribbles": [{"points": [{"x": 1, "y": 1}], "colour": "red"}]}, "colour"),
        ({"scribbles": [{"points": [{"x": 1, "y": 1}] * 10_001}]}, "points"),
        ({"lassos": [{"points": [{"x": 1, "y": 1}] * 2}]}, "points"),
        ({"lassos": [{"points": [{"x": 1, "y": 1}] * 3, "width": 3}]}, "width"),
        ({"lassos": [{"points": [{"x": float("nan"), "y": 1}] * 3}]}, "x"),
    ],
)
def test_a_drawing_that_cannot_be_meant_is_refused(drawn, where):
    with pytest.raises(ValidationError) as refusal:
        SAMInput.model_validate(drawn)
    assert where in refusal.value.errors()[0]["loc"]

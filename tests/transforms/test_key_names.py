"""Keys of ``sam_input`` as other tools name them, or mistyped: the message has the right one."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from lib.server.rest.schemas import SAMInput
from lib.transforms.key_names import OTHER_NAMES
from lib.transforms.sam_input import (
    LassoInput,
    PointInput,
    RectInput,
    SAMPrompts,
    ScribbleInput,
    WindowInput,
)

POINT = {"x": 1, "y": 2}


def told(sent: object) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as refused:
        SAMPrompts.model_validate(sent)
    return [(fault["loc"], fault["msg"]) for fault in refused.value.errors()]


@pytest.mark.parametrize(
    ("key", "right"),
    [
        *(("points", "positive_points"), ("foreground", "positive_points"), ("postive_points", "positive_points")),
        *(
            ("point_coords", "positive_points"),
            ("background", "negative_points"),
            ("negativePoints", "negative_points"),
        ),
        *(("box", "rectangles"), ("boxes", "rectangles"), ("bbox", "rectangles"), ("rectangle", "rectangles")),
        *(("scribble", "scribbles"), ("polygon", "lassos"), ("slice", "frame"), ("multimask_output", "multimask")),
    ],
)
def test_a_key_of_the_request(key, right):
    assert told({key: []}) == [((key,), f"there is no {key!r} here; did you mean {right}?")]


def test_a_key_that_is_like_none_gets_all_there_are():
    ((_, message),) = told({"foo": 1})
    assert message.startswith("there is no 'foo' here; there are model, rectangles, ")
    assert message.endswith(", multimask, automatic")


@pytest.mark.parametrize(
    ("sent", "loc", "message"),
    [
        ({"rectangles": [{"x": 1, "startY": 2, "width": 3, "height": 4}]}, ("rectangles", 0, "startX"), "x"),
        ({"rectangles": [{"startX": 1, "startY": 2, "w": 3, "height": 4}]}, ("rectangles", 0, "width"), "w"),
        ({"rectangles": [{"startX": 1, "starty": 2, "width": 3, "height": 4}]}, ("rectangles", 0, "startY"), "starty"),
        ({"negative_points": [POINT, {"x": 1, "Y": 2}]}, ("negative_points", 1, "y"), "Y"),
        ({"scribbles": [{"points": [{"col": 1, "y": 2}]}]}, ("scribbles", 0, "points", 0, "x"), "col"),
        ({"window": {"level": 40, "width": 400}}, ("window", "center"), "level"),
    ],
)
def test_a_key_that_is_missing_under_its_name(sent, loc, message):
    assert told(sent) == [(loc, f"{loc[-1]!r} is missing; {message!r} is called {loc[-1]} here")]


def test_a_key_of_a_drawing():
    assert told({"scribbles": [{"points": [POINT], "thickness": 2}]}) == [
        (("scribbles", 0, "thickness"), "there is no 'thickness' here; did you mean width?")
    ]
    assert (("lassos", 0, "coords"), "there is no 'coords' here; did you mean points?") in told(
        {"lassos": [{"coords": [POINT]}]}
    )


def test_other_faults_are_told_as_before_beside_it():
    faults = told({"points": [], "frame": -1, "rectangles": [{"a {b}": 1}], "label": "a\\b"})
    missing = [(("rectangles", 0, key), "Field required") for key in RectInput.model_fields]
    assert [fault for fault in faults if fault[1] == "Field required"] == missing
    assert (("frame",), "Input should be greater than or equal to 0") in faults
    assert told([]) == [((), "Input should be a valid dictionary or instance of SAMPrompts")]


def test_every_name_of_others_leads_to_a_key_that_there_is():
    models: tuple[type[BaseModel], ...] = (SAMInput, PointInput, RectInput, ScribbleInput, LassoInput, WindowInput)
    known = {key for model in models for key in model.model_fields}
    assert {key for keys in OTHER_NAMES.values() for key in keys} <= known

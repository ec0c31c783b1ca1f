import numpy as np
import pytest

from lib.sam.prompts import PromptError, Prompts


def test_clicks_keep_their_order_and_labels():
    prompts = Prompts.from_clicks([[1, 2], [3, 4]], [[5, 6]], box=[0, 0, 9, 9])
    assert prompts.points.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert prompts.labels.tolist() == [1, 1, 0]
    assert prompts.box is not None and prompts.box.tolist() == [0, 0, 9, 9]


def test_arrays_cannot_be_changed_afterwards():
    source = np.array([[1.0, 2.0]])
    prompts = Prompts(points=source, labels=np.array([1]))
    source[0, 0] = 99
    assert prompts.points[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        prompts.points[0, 0] = 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing marks the object"),
        ({"points": [[1, 2]], "labels": [0]}, "nothing marks the object"),
        ({"points": [[1, 2]], "labels": [2]}, "1 .foreground. or 0"),
        ({"points": [[1, 2]], "labels": []}, "1 points but labels"),
        ({"points": [[1, 2, 3]], "labels": [1]}, r"list of \[x, y\]"),
        ({"points": [[1], [1, 2]], "labels": [1, 1]}, "must be numbers"),
        ({"points": [["a", 2]], "labels": [1]}, "must be numbers"),
        ({"points": [[float("nan"), 2]], "labels": [1]}, "NaN"),
        ({"points": [[float("inf"), 2]], "labels": [1]}, "infinity"),
        ({"box": [5, 5, 5, 9]}, "no area"),
        ({"box": [9, 0, 5, 9]}, "left < right"),
        ({"box": [1, 2, 3]}, "four numbers"),
        ({"box": [1, 2, 3, float("nan")]}, "NaN"),
        ({"mask_logits": np.zeros((64, 32))}, "must be a square, not of shape"),
        ({"mask_logits": np.full((256, 256), np.inf)}, "infinity"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        Prompts(**arguments)


def test_points_outside_the_image_are_refused():
    assert Prompts.from_clicks([[0, 0], [99, 49]]).within(100, 50).points.shape == (2, 2)
    for outside in ([100, 10], [10, 50], [-1, 10]):
        with pytest.raises(PromptError, match="x must be from 0 to 99, y from 0 to 49"):
            Prompts.from_clicks([outside]).within(100, 50)


def test_a_box_dragged_past_the_border_is_clipped():
    box = Prompts.from_clicks(box=[-20, 10, 130, 70]).within(100, 50).box
    assert box is not None and box.tolist() == [0, 10, 100, 50]
    with pytest.raises(PromptError, match="outside the image of 100 x 50"):
        Prompts.from_clicks(box=[120, 10, 130, 20]).within(100, 50)

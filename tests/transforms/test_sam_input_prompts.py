import numpy as np
import pytest

from lib.imaging.image import MedicalImage
from lib.sam.prompts import PromptError, Prompts
from lib.transforms.sam_input import SAMPrompts
from lib.transforms.sam_input_prompts import SamInputPromptsd, sam_input_objects
from support.segment_requests import rest_data


def rectangle(x: float, y: float, width: float, height: float) -> dict[str, float]:
    return {"startX": x, "startY": y, "width": width, "height": height}


def point(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y}


def objects_of(sam_input: dict[str, object]) -> list[Prompts]:
    return sam_input_objects(SAMPrompts.model_validate(sam_input))


def test_one_rectangle_and_points_are_one_object():
    (one,) = objects_of(
        {
            "rectangles": [rectangle(10, 20, 30, 40)],
            "positive_points": [point(15, 25), point(90, 90)],
            "negative_points": [point(1, 2)],
        }
    )
    assert one.box is not None and one.box.tolist() == [10, 20, 40, 60]
    assert one.points.tolist() == [[15, 25], [90, 90], [1, 2]]
    assert one.labels.tolist() == [1, 1, 0]


def test_points_alone_are_one_object():
    (one,) = objects_of({"positive_points": [point(1, 2), point(3, 4)]})
    assert one.box is None and one.points.shape == (2, 2)


@pytest.mark.parametrize("dragged", [(40, 60, -30, -40), (10, 60, 30, -40), (40, 20, -30, 40)])
def test_a_rectangle_dragged_up_or_left_is_the_same(dragged):
    (one,) = objects_of({"rectangles": [rectangle(*dragged)]})
    assert one.box is not None and one.box.tolist() == [10, 20, 40, 60]


def test_several_rectangles_are_an_object_each_and_own_the_points_inside():
    objects = objects_of(
        {
            "rectangles": [rectangle(0, 0, 100, 100), rectangle(10, 10, 20, 20), rectangle(200, 0, 10, 10)],
            "positive_points": [point(15, 15), point(80, 80), point(150, 150), point(160, 150)],
            "negative_points": [point(5, 5)],
        }
    )
    assert [prompts.points.tolist() for prompts in objects] == [
        [[80, 80], [5, 5]],
        [[15, 15], [5, 5]],  # inside two rectangles: the smaller one's
        [[5, 5]],
        [[150, 150], [160, 150], [5, 5]],  # outside all: one more object
    ]
    assert objects[3].box is None


@pytest.mark.parametrize("empty", [{}, {"rectangles": None, "positive_points": None}, {"negative_points": []}])
def test_no_prompts_ask_for_automatic_segmentation(empty):
    assert objects_of(empty) == []


def test_negative_points_alone_are_refused():
    with pytest.raises(PromptError, match="nothing marks the object"):
        objects_of({"negative_points": [point(1, 2)]})


def test_a_rectangle_without_area_is_refused():
    with pytest.raises(PromptError, match="no area"):
        objects_of({"rectangles": [rectangle(1, 2, 0, 5)]})


def test_the_frame_is_the_one_asked_for_or_the_middle():
    image = MedicalImage(frames=np.zeros((9, 30, 40), np.uint8))
    transform = SamInputPromptsd()
    assert transform(rest_data(image, {}))["slice"] == 4
    assert transform(rest_data(image, {"frame": 0}))["slice"] == 0
    with pytest.raises(PromptError, match="x must be from 0 to 39"):
        transform(rest_data(image, {"positive_points": [point(40, 5)]}))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.imaging.image import MedicalImage
from lib.imaging.limits import Limits
from lib.sam.prompts import PromptError, Prompts
from lib.transforms.sam_input import SAMPrompts
from lib.transforms.sam_input_prompts import SamInputPromptsd, areas_beside, sam_input_objects
from support.segment_requests import rest_data

SIZE = (300, 300)


def rectangle(x: float, y: float, width: float, height: float) -> dict[str, float]:
    return {"startX": x, "startY": y, "width": width, "height": height}


def point(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y}


def square(x: float, y: float, side: float, positive: bool = True) -> dict[str, object]:
    """A lasso around the pixels from (x, y) on."""
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    return {"points": [point(*corner) for corner in corners], "positive": positive}


def line(*points: tuple[float, float], positive: bool = True) -> dict[str, object]:
    return {"points": [point(*one) for one in points], "positive": positive}


def objects_of(sam_input: dict[str, object]) -> list[Prompts]:
    return sam_input_objects(SAMPrompts.model_validate(sam_input), SIZE)


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


def test_a_lasso_is_a_box_and_an_area_and_has_all_points():
    (one,) = objects_of({"lassos": [square(10, 20, 30)], "positive_points": [point(90, 90)]})
    assert one.box is not None and one.box.tolist() == [10, 20, 40, 50]
    assert one.area is not None and np.argwhere(one.area).min(axis=0).tolist() == [20, 10] and one.area.sum() == 900
    assert one.points.tolist() == [[90, 90]] and one.labels.tolist() == [1]


def test_a_model_for_points_alone_gets_the_innermost_one_of_a_lasso():
    (one,) = sam_input_objects(SAMPrompts.model_validate({"lassos": [square(10, 20, 31)]}), SIZE, ("point", "mask"))
    assert one.box is None and one.area is not None and one.points.tolist() == [[25, 35]]


def test_rectangles_and_lassos_are_objects_of_their_own_and_own_what_is_inside():
    objects = objects_of(
        {
            "lassos": [square(10, 10, 20), square(200, 200, 9)],
            "rectangles": [rectangle(0, 0, 100, 100)],
            "positive_points": [point(15, 15), point(80, 80)],
            "scribbles": [
                line((12, 25), (20, 25), (28, 25)),
                line((150, 20), (180, 20)),
                line((5, 290), (9, 290), positive=False),
            ],
        }
    )
    assert [one.box is not None for one in objects] == [True, True, True, False]
    assert [one.area is not None for one in objects] == [False, True, True, False]
    positive = [one.points[one.labels == 1].tolist() for one in objects]
    assert positive[0] == [[80, 80]] and positive[1][0] == [15, 15] and positive[2] == []
    assert [y for _, y in positive[1][1:]] == pytest.approx([25, 25, 25], abs=1), "the scribble's points stay together"
    assert len(positive[3]) == 3 and all(149 <= x <= 181 for x, _ in positive[3])
    for one in objects:
        assert (one.points[one.labels == 0][:, 1] >= 288).all() and 0 in one.labels


def test_a_scribble_belongs_where_its_middle_is():
    across = line((5, 50), (60, 50), (125, 50))  # begins in the one and ends in the other
    objects = objects_of({"lassos": [square(0, 0, 100), square(110, 0, 100)], "scribbles": [across]})
    assert [len(one.points) for one in objects] == [3, 0]


@given(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 299)), min_size=1, max_size=8), st.booleans())
def test_scribbles_alone_are_one_object(places, joined):
    drawn = [line(*places)] if joined else [line(place) for place in places]
    (one,) = objects_of({"scribbles": drawn})
    assert one.box is one.area is None and (one.labels == 1).all() and len(one.points) >= 1
    if not joined:
        assert abs(one.points - np.array(places)).max() <= 1


def test_negative_lassos_are_areas_that_belong_to_no_object():
    sam_input = SAMPrompts.model_validate({"lassos": [square(10, 10, 5), square(50, 60, 7, positive=False)]})
    assert len(sam_input_objects(sam_input, SIZE)) == 1
    [area] = areas_beside(sam_input, SIZE)
    assert area.sum() == 49 and area[60, 50]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lassos": [square(1, 1, 9, positive=False)]}, "nothing marks the object"),
        ({"scribbles": [line((1, 1), positive=False)]}, "nothing marks the object"),
        ({"lassos": [square(300, 5, 9)]}, "encloses no pixel of the image of 300 x 300"),
        ({"scribbles": [line((5, -9), (200, -9))]}, r"begins at \(5, -9\) is outside the image of 300 x 300"),
        (
            {"rectangles": [rectangle(0, 0, 9, 9)] * 250, "lassos": [square(1, 1, 9)] * 5},
            "255 rectangles and lassos; at most 254",
        ),
    ],
)
def test_drawings_that_mark_nothing_are_refused(wrong, message):
    with pytest.raises(PromptError, match=message):
        objects_of(wrong)


def test_the_areas_of_lassos_are_bounded():
    sam_input = SAMPrompts.model_validate({"lassos": [square(1, 1, 9)] * 9})
    with pytest.raises(PromptError, match="9 lassos; on an image of this size at most 8"):
        sam_input_objects(sam_input, (4096, 4096))


def test_each_drawing_counts_as_one_prompt_and_only_if_there_is_one():
    drawn = SAMPrompts.model_validate({"lassos": [square(1, 1, 9)], "scribbles": [line((1, 1), (2, 2))] * 2})
    assert drawn.counts() == {
        "rectangles": 0, "positive_points": 0, "negative_points": 0, "scribbles": 2, "lassos": 1
    }  # fmt: skip
    assert SAMPrompts().counts() == {"rectangles": 0, "positive_points": 0, "negative_points": 0}
    image = MedicalImage(frames=np.zeros((1, 30, 40), np.uint8))
    with pytest.raises(PromptError, match="there are 3 "):
        SamInputPromptsd(Limits(max_prompts=2))(rest_data(image, drawn.model_dump()))


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

"""Viewers' requests for a whole volume, as they are on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lib.imaging.image import MedicalImage
from lib.imaging.limits import Limits
from lib.sam.prompts import PromptError
from lib.sam.volume.propagation import VolumePrompts
from lib.transforms.viewer_prompts import VolumePromptsd
from support.segment_requests import viewer_request


@pytest.fixture
def volume() -> MedicalImage:
    return MedicalImage(frames=np.zeros((20, 512, 400), np.int16), is_geometric=True)  # i < 400, j < 512, k < 20


def prompts_of(image: MedicalImage, most: int = 1000, **params: Any) -> VolumePrompts:
    transform = VolumePromptsd(Limits(max_prompts=most))
    found: VolumePrompts = transform({**viewer_request("", **params), "image": image})["volume_prompts"]
    return found


def test_points_of_several_slices_are_prompts_there(volume):
    found = prompts_of(volume, foreground=[[10, 20, 3], [11, 21, 3], [12, 22, 9]], background=[[1, 2, 3]], slice=-7.5)
    assert {k: prompts.points.tolist() for k, prompts in found.marked.items()} == {
        3: [[10, 20], [11, 21], [1, 2]],
        9: [[12, 22]],
    }
    assert found.marked[3].labels.tolist() == [1, 1, 0]
    assert found.background == {} and found.bounds == range(20)


def test_a_slice_with_background_points_alone_corrects(volume):
    found = prompts_of(volume, foreground=[[10, 20, 3]], background=[[5, 6, 8]])
    assert list(found.marked) == [3]
    assert {k: points.tolist() for k, points in found.background.items()} == {8: [[5, 6]]}


def test_a_region_is_a_box_on_its_middle_slice_and_bounds_the_object(volume):
    found = prompts_of(volume, roi=[300, 100, 40, 60, 14, 10])
    assert found.marked[12].box.tolist() == [100, 40, 300, 60] and list(found.marked) == [12]
    assert found.bounds == range(10, 15)
    assert prompts_of(volume, roi=[300, 100, 40, 60, 14, 10], foreground=[[1, 1, 17]]).bounds == range(10, 18)
    assert prompts_of(volume, roi=[100, 300, 40, 60, 12, 12]).bounds == range(20), "one slice says nothing of others"


def test_two_points_of_a_slice_as_a_box(volume):
    corners = [[10, 20, 3], [30, 5, 3], [15, 15, 3], [7, 7, 4]]
    found = prompts_of(volume, foreground=corners, box_from_points=True)
    assert found.marked[3].box.tolist() == [10, 5, 30, 20] and found.marked[3].points.tolist() == [[15, 15]]
    assert found.marked[4].box is None and found.marked[4].points.tolist() == [[7, 7]]
    assert prompts_of(volume, foreground=corners).marked[3].box is None


def test_two_numbers_are_enough_on_a_2d_image():
    image = MedicalImage(frames=np.zeros((1, 30, 40), np.uint8))
    found = prompts_of(image, foreground=[[39, 29]], roi=[1, 9, 2, 8])
    assert found.marked[0].points.tolist() == [[39, 29]] and found.marked[0].box.tolist() == [1, 2, 9, 8]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "nothing marks the object"),
        ({"background": [[1, 1, 1]]}, "nothing marks the object"),
        ({"foreground": [[1, 1]]}, r"points \[i, j, k\]"),
        ({"roi": [1, 9, 1, 9]}, "six finite numbers"),
        ({"foreground": [[1, 1, 20]]}, "outside the image"),
        ({"roi": [1, 9, 1, 9, 50, 60]}, "outside the image"),
        ({"foreground": [[5, 5, 1], [5, 9, 1]], "box_from_points": True}, "has no area"),
        ({"foreground": [[1, 1, 1]] * 3, "background": [[2, 2, 2]] * 2}, "5 points and rectangles; at most 4"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(volume, params, said):
    with pytest.raises(PromptError, match=said):
        prompts_of(volume, most=4, **params)

"""OHIF's and Slicer's requests, as they are on the wire."""

import json
from typing import Any

import numpy as np
import pytest

from lib.imaging.image import MedicalImage
from lib.sam.prompts import PromptError, Prompts
from lib.transforms.viewer_prompts import ViewerPromptsd, viewer_prompts
from support.segment_requests import viewer_prompts_of, viewer_request


@pytest.fixture
def volume() -> MedicalImage:
    return MedicalImage(frames=np.zeros((20, 512, 400), np.int16), is_geometric=True)  # i < 400, j < 512, k < 20


def mapped(image: MedicalImage, params: dict[str, Any]) -> tuple[int, Prompts]:
    return viewer_prompts(image, viewer_prompts_of(params))


def test_ohif_points(volume):
    request = json.loads(
        '{"foreground":[[171,256,9]],"background":[[205,256,9]],"result_extension":".nrrd","result_dtype":"uint8",'
        '"result_compress":false,"restore_label_idx":false}'
    )
    k, prompts = mapped(volume, request)
    assert k == 9
    assert prompts.points.tolist() == [[171, 256], [205, 256]]
    assert prompts.labels.tolist() == [1, 0]
    assert prompts.box is None


def test_slicer_points_with_slice(volume):
    request = {"label": "organ", "foreground": [[60, 50, 12], [61, 51, 3]], "background": [[1, 2, 3]], "slice": 12}
    k, prompts = mapped(volume, request)
    assert (k, prompts.points.tolist(), prompts.labels.tolist()) == (12, [[60, 50]], [1])


def test_slicer_on_slice_0_sends_points_of_all_slices(volume):
    request = {"foreground": [[60, 50, 0], [9, 9, 7]], "background": [[5, 5, 7]], "slice": 0}
    k, prompts = mapped(volume, request)
    assert (k, prompts.points.tolist()) == (0, [[60, 50]])


def test_slicer_region_alone_ignores_the_millimetre_slice(volume):
    request = {"roi": [300, 100, 40, 60, 14, 10], "slice": -153.5, "foreground": [], "background": []}
    k, prompts = mapped(volume, request)
    assert k == 12
    assert prompts.box is not None and prompts.box.tolist() == [100, 40, 300, 60]
    assert prompts.points.shape == (0, 2)


def test_region_and_points(volume):
    k, prompts = mapped(volume, {"roi": [100, 300, 40, 60, 10, 14], "foreground": [[150, 50, 11]]})
    assert k == 11 and prompts.box is not None and prompts.points.tolist() == [[150, 50]]


def test_region_of_other_slices_is_left_out(volume):
    k, prompts = mapped(volume, {"roi": [100, 300, 40, 60, 10, 14], "foreground": [[150, 50, 2]]})
    assert k == 2 and prompts.box is None


def test_region_past_the_border_is_the_part_inside(volume):
    data = ViewerPromptsd()({**viewer_request("", roi=[-20, 300, 40, 9999, -3, 4]), "image": volume})
    assert data["slice"] == 2
    assert data["objects"][0].box.tolist() == [0, 40, 300, 512]


@pytest.mark.parametrize("missing", [{}, {"background": None}, {"background": []}])
def test_missing_keys_are_tolerated(volume, missing):
    k, prompts = mapped(volume, {"foreground": [[1, 2, 3]], **missing})
    assert (k, prompts.points.tolist()) == (3, [[1, 2]])


def test_the_last_point_decides_the_slice(volume):
    k, prompts = mapped(volume, {"foreground": [[1, 1, 4], [2, 2, 6]], "background": [[3, 3, 5]]})
    assert (k, prompts.points.tolist()) == (6, [[2, 2]])


def test_two_numbers_are_enough_on_a_2d_image():
    image = MedicalImage(frames=np.zeros((1, 30, 40), np.uint8))
    assert mapped(image, {"foreground": [[39, 29]]})[1].points.tolist() == [[39, 29]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "no prompt"),
        ({"foreground": [], "background": [], "roi": []}, "no prompt"),
        ({"background": [[1, 1, 1]]}, "nothing marks the object on slice 1"),
        ({"foreground": [[1, 1, 1]], "slice": 2}, "nothing marks the object on slice 2"),
        ({"foreground": [[400, 1, 1]]}, r"\[400.0, 1.0, 1.0\] is outside.*\[400, 512, 20\]"),
        ({"foreground": [[1, 1, 20]]}, "outside the image"),
        ({"foreground": [[1, 1, -1]]}, "outside the image"),
        ({"foreground": [[1, float("nan"), 1]]}, "NaN"),
        ({"foreground": [[1, 1]]}, r"points \[i, j, k\]"),
        ({"foreground": [1, 2, 3]}, r"points \[i, j, k\]"),
        ({"foreground": [[[1, 2, 3]]]}, r"points \[i, j, k\]"),
        ({"foreground": "1,2,3"}, r"points \[i, j, k\]"),
        ({"foreground": [["a", "b", "c"]]}, r"points \[i, j, k\]"),
        ({"foreground": {"x": 1}}, r"points \[i, j, k\]"),
        ({"foreground": [[1, 1, 1]], "background": [[1, 1, 99]]}, "background point"),
        ({"foreground": [[1, 1, 1]], "slice": 99}, "0 to 19, not 99"),
        ({"foreground": [[1, 1, 1]], "slice": "1"}, "whole number"),
        ({"foreground": [[1, 1, 1]], "slice": 1.5}, "whole number"),
        ({"foreground": [[1, 1, 1]], "slice": float("nan")}, "whole number"),
        ({"roi": [1, 2, 3]}, "six finite numbers"),
        ({"roi": [1, 2, 3, 4, 5, float("inf")]}, "six finite numbers"),
        ({"roi": "all"}, "six finite numbers"),
        ({"roi": [1, 9, 1, 9, 50, 60]}, "outside the image"),
    ],
)
def test_bad_prompts_are_refused_with_the_reason(volume, request_, message):
    with pytest.raises(PromptError, match=message):
        ViewerPromptsd()({**viewer_request("", **request_), "image": volume})


def test_a_region_without_area_or_off_the_image_is_refused(volume):
    for roi in ([5, 5, 1, 9, 1, 1], [500, 600, 1, 9, 1, 1]):
        with pytest.raises(PromptError, match=r"area|outside"):
            ViewerPromptsd()({**viewer_request("", roi=roi), "image": volume})

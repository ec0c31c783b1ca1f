"""Viewers' scribbles, lassos and labels to start from, as they are on the wire."""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.imaging.image import MedicalImage
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image
from lib.sam.logits_grid import LogitsGrid
from lib.sam.prompts import PromptError
from lib.sam.volume.propagation import VolumePrompts
from lib.sam.volume.result import SliceMask
from lib.transforms.viewer_prompts import ViewerPromptsd, VolumePromptsd, volume_prompts
from support.segment_requests import viewer_prompts_of, viewer_request

VOLUME = MedicalImage(frames=np.zeros((20, 60, 50), np.int16), is_geometric=True)  # i < 50, j < 60, k < 20


def square(i: float, j: float, side: float, k: int, positive: bool = True) -> dict[str, Any]:
    """A lasso around the voxels from (i, j) on."""
    corners = [[i, j, k], [i + side, j, k], [i + side, j + side, k], [i, j + side, k]]
    return {"points": corners, "positive": positive}


def line(*points: list[float], positive: bool = True, width: float = 1) -> dict[str, Any]:
    return {"points": list(points), "positive": positive, "width": width}


def on_slice(image: MedicalImage = VOLUME, **params: Any) -> dict[str, Any]:
    return ViewerPromptsd(Limits(max_prompts=9))({**viewer_request("", **params), "image": image})


def through(**params: Any) -> VolumePrompts:
    return volume_prompts(VOLUME, viewer_prompts_of(params))


def test_drawings_choose_the_slice_where_no_point_does():
    assert on_slice(lassos=[square(5, 5, 10, 4)])["slice"] == 4
    drawn = {"lassos": [square(5, 5, 10, 4)], "scribbles": [line([1, 1, 7], positive=False)]}
    assert on_slice(**drawn)["slice"] == 4, "what is on the object decides"
    assert on_slice(**drawn, foreground=[[3, 3, 9]])["slice"] == 9
    assert on_slice(**drawn, foreground=[[3, 3, 9]], slice=4)["slice"] == 4


def test_what_is_drawn_on_the_slice_marks_one_object():
    data = on_slice(
        lassos=[square(5, 5, 10, 4), square(30, 30, 10, 4), square(1, 1, 9, 5), square(8, 8, 2, 4, positive=False)],
        scribbles=[line([6, 7, 4]), line([40, 2, 4], positive=False), line([1, 1, 6])],
        foreground=[[35, 35, 4]],
    )
    [prompts] = data["objects"]
    assert prompts.box.tolist() == [5, 5, 40, 40] and prompts.area.sum() == 200
    assert prompts.points.tolist() == [[35, 35], [6, 7], [40, 2]] and prompts.labels.tolist() == [1, 1, 0]
    [beside] = data["beside"]
    assert beside.sum() == 4 and beside[8, 8] and data["start"] is None


def test_the_corners_of_a_box_are_points_and_not_scribbles():
    scribble = [line([6, 7, 4])]
    [prompts] = on_slice(foreground=[[1, 2, 4], [30, 40, 4]], scribbles=scribble, box_from_points=True)["objects"]
    assert prompts.box.tolist() == [1, 2, 30, 40] and prompts.points.tolist() == [[6, 7]]
    [prompts] = on_slice(foreground=[[1, 2, 4]], scribbles=scribble, box_from_points=True)["objects"]
    assert prompts.box is None and prompts.points.tolist() == [[1, 2], [6, 7]]


@given(st.tuples(st.floats(-20, 70), st.floats(-20, 80)), st.floats(1, 60), st.integers(0, 19))
def test_a_lasso_is_clipped_in_its_plane(corner, side, k):
    try:
        [prompts] = on_slice(lassos=[square(*corner, side, k)])["objects"]
    except PromptError as refusal:
        assert "encloses no pixel of the image of 50 x 60" in str(refusal)
        return
    assert prompts.area.shape == (60, 50)
    rows, columns = np.nonzero(prompts.area)
    assert (columns >= corner[0] - 1e-9).all() and (columns <= corner[0] + side + 1e-9).all()
    assert (rows >= corner[1] - 1e-9).all() and (rows <= corner[1] + side + 1e-9).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lassos": [{"points": [[1, 1, 3], [9, 9, 4], [1, 9, 3]]}]}, "on several slices"),
        ({"lassos": [square(1, 1, 9, 20)]}, "slice 20; the image has 0 to 19"),
        ({"scribbles": [line([1, 1])]}, r"a list of points \[i, j, k\]"),
        ({"scribbles": [line([70, 1, 3], [90, 1, 3])]}, "is outside the image"),
        ({"lassos": [square(1, 1, 9, 3, positive=False)]}, "nothing marks the object on slice 3"),
        ({"lassos": [square(1, 1, 9, 3)], "roi": [1, 9, 1, 9, 3, 3]}, "a roi and a lasso"),
        ({"scribbles": [line([1, 1, 3])] * 10}, "there are 10 "),
    ],
)
def test_what_cannot_be_meant_is_refused(params, message):
    with pytest.raises(PromptError, match=message):
        on_slice(**params)


def test_an_image_of_one_frame_takes_drawings_without_k():
    image = MedicalImage(frames=np.zeros((1, 60, 50), np.uint8))
    [prompts] = on_slice(image, lassos=[{"points": [[5, 5], [15, 5], [15, 15], [5, 15]]}])["objects"]
    assert prompts.area.sum() == 100


def test_through_a_volume_each_slice_has_its_drawings():
    found = through(
        lassos=[square(5, 5, 10, 4), square(2, 2, 3, 9, positive=False)],
        scribbles=[line([6, 7, 4]), line([8, 9, 12]), line([40, 2, 6], positive=False)],
    )
    assert set(found.marked) == {4, 12}
    assert found.marked[4].area.sum() == 100 and found.marked[4].points.tolist() == [[6, 7]]
    assert found.marked[12].is_points and found.marked[12].points.tolist() == [[8, 9]]
    assert {k: points.tolist() for k, points in found.background.items()} == {6: [[40, 2]]}
    assert found.bounds == range(20)


def a_mask(rows: slice, columns: slice) -> SliceMask:
    mask = np.zeros((60, 50), dtype=bool)
    mask[rows, columns] = True
    return SliceMask.of(mask, LogitsGrid(mask.shape, (4.0, 4.0)))


def test_a_mask_in_an_area_beside_the_object_gets_a_point_there():
    prompts = through(foreground=[[20, 20, 4]], background=[[1, 1, 5]])
    area = np.zeros((60, 50), dtype=bool)
    area[10:21, 10:21] = True
    found = {k: a_mask(slice(0, 30), slice(0, 30)) for k in (4, 5, 6)}
    more = prompts.off(found, {4: [area], 5: [area], 6: [area], 7: [area]})
    assert more.marked[4].points.tolist() == [[20, 20], [15, 15]] and more.marked[4].labels.tolist() == [1, 0]
    assert {k: points.tolist() for k, points in more.background.items()} == {5: [[1, 1], [15, 15]], 6: [[15, 15]]}
    beside = {k: a_mask(slice(40, 50), slice(0, 30)) for k in (4, 5)}
    same = prompts.off(beside, {4: [area], 5: [area]})
    assert same.marked[4] is prompts.marked[4] and list(same.background) == [5]


def with_label(tmp_path, **params: Any) -> dict[str, Any]:
    """A viewer's request on a volume, with a label of 7 on slices 3 and 4, and of 9 on slice 12."""
    image, label = np.zeros((50, 60, 20), np.int16), np.zeros((50, 60, 20), np.uint8)
    label[10:20, 10:20, 3] = label[10:25, 10:20, 4] = 7
    label[30:40, 30:40, 12] = 9
    for name, values in (("image", image), ("label", label)):
        (tmp_path / f"{name}.nii").write_bytes(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
    sent = viewer_request("", sent_label=str(tmp_path / "label.nii"), start_from_label=True, **params)
    return {**sent, "image": read_image(tmp_path / "image.nii")}


def test_a_label_is_started_from_on_the_slice_of_the_prompts_or_with_most_of_it(tmp_path):
    corrects = ViewerPromptsd()(with_label(tmp_path, background=[[12, 12, 3]]))
    assert corrects["slice"] == 3 and corrects["start"].sum() == 100
    [prompts] = corrects["objects"]
    assert prompts.area.sum() == 100 and prompts.labels.tolist() == [1, 0]
    [prompts] = ViewerPromptsd()(with_label(tmp_path, foreground=[[21, 12, 3]], background=[[12, 12, 3]]))["objects"]
    assert prompts.box.tolist() == [10, 10, 22, 20] and prompts.points.tolist() == [[21, 12], [12, 12]]
    alone = ViewerPromptsd()(with_label(tmp_path))
    assert alone["slice"] == 4 and alone["start"] is None and alone["objects"][0].area.sum() == 150
    assert ViewerPromptsd()(with_label(tmp_path, slice=12))["slice"] == 12
    for wrong, message in (({"slice": 0}, "nothing on slice 0"), ({"lassos": [square(1, 1, 9, 3)]}, "leave the roi")):
        with pytest.raises(PromptError, match=message):
            ViewerPromptsd()(with_label(tmp_path, **wrong))


def test_a_label_of_several_objects_is_started_from_if_the_client_says_which(tmp_path):
    named = {"label": "liver", "label_info": [{"name": "spleen", "idx": 9}, {"name": "liver", "idx": 7}]}
    transform = VolumePromptsd(grid=lambda size: LogitsGrid(size, (4.0, 4.0)))
    found = transform(with_label(tmp_path, background=[[12, 12, 3]], **named))["volume_prompts"]
    assert set(found.start) == {3, 4} and found.start[4].mask.sum() == 150
    assert not found.marked and found.background[3].tolist() == [[12, 12]]
    with pytest.raises(PromptError, match="the values 7, 9 in the volume"):
        transform(with_label(tmp_path, background=[[12, 12, 3]]))
    with pytest.raises(PromptError, match="nothing corrects the label"):
        transform(with_label(tmp_path, **named))

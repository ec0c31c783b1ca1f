"""The mask to start from, and labels that are not covered."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from lib.imaging.dicom.data_sets import write
from lib.imaging.image import CorruptImageError, ImageError
from lib.imaging.labels.series_segmentation import series_segmentation
from lib.imaging.readers import read_image
from lib.sam.logits_grid import depth
from lib.sam.prompts import PromptError
from lib.sam.volume.corrections import start_prompts
from lib.transforms.present_labels import ProtectLabeld, one_object, start_labels, start_on_slice
from lib.transforms.request import REQUEST, SegmentOptions, SegmentRequest, Source
from lib.transforms.sam_input import SAMPrompts
from lib.transforms.sam_input_prompts import SamInputPromptsd
from support.rest import png

SHAPE = (4, 5, 6)  # i, j, k


@pytest.fixture
def image(tmp_path):
    (tmp_path / "image.nii").write_bytes(nibabel.Nifti1Image(np.ones(SHAPE, np.int16), np.eye(4)).to_bytes())
    return read_image(tmp_path / "image.nii")


def data_with(image, label: Path | None, **sam_input) -> dict:
    request = SegmentRequest(
        Source.REST,
        "sam_tiny",
        "",
        SAMPrompts.model_validate(sam_input),
        SegmentOptions(start_from_label=True),
        prompting_label=str(label) if label else None,
    )
    return {"image": image, REQUEST: request}


def labelled() -> np.ndarray:
    """A label map, (i, j, k), with one object on slices 1 and 2, and two on slice 3."""
    values = np.zeros(SHAPE, np.uint8)
    values[1:3, 1:4, 1:4] = 7
    values[0, 0, 3] = 2
    return values


def test_a_label_on_the_image_starts_from_its_object_on_the_slice(image, tmp_path):
    (tmp_path / "label.nii").write_bytes(nibabel.Nifti1Image(labelled(), np.eye(4)).to_bytes())
    (tmp_path / "label.bin").write_bytes(np.ascontiguousarray(labelled().T).tobytes())
    for name in ("label.nii", "label.bin"):
        labels = start_labels(data_with(image, tmp_path / name), read_image)
        assert labels is not None
        assert np.array_equal(start_on_slice(labels, image, 2), labelled()[..., 2].T == 7)
        for k, message in ((0, "nothing on slice 0"), (3, "the values 2, 7 on slice 3"), (6, "there is no frame 6")):
            with pytest.raises(PromptError, match=message):
                start_on_slice(labels, image, k)


def test_a_picture_of_the_frame_is_of_whatever_slice_is_segmented(image, tmp_path):
    mask = labelled()[..., 2].T.copy()
    (tmp_path / "mask").write_bytes(png(mask))
    labels = start_labels(data_with(image, tmp_path / "mask"), read_image)
    assert labels is not None and np.array_equal(start_on_slice(labels, image, 5), mask == 7)


@pytest.mark.parametrize("mask", [np.ones((5, 5), np.uint8), np.ones((4, 5), np.uint8), np.ones((5, 4, 3), np.uint8)])
def test_a_picture_of_another_size_or_in_colours_is_refused(image, tmp_path, mask):
    (tmp_path / "mask").write_bytes(png(mask * 200))
    with pytest.raises(CorruptImageError):
        start_labels(data_with(image, tmp_path / "mask"), read_image)


def test_without_a_label_there_is_nothing_to_start_from(image):
    with pytest.raises(PromptError, match="no label to start from"):
        start_labels(data_with(image, None), read_image)
    data = data_with(image, None)
    plain = replace(data[REQUEST], options=SegmentOptions())
    assert start_labels({**data, REQUEST: plain}, read_image) is None


def test_prompts_correct_it_and_without_any_it_is_about_the_object(image, tmp_path):
    (tmp_path / "label.nii").write_bytes(nibabel.Nifti1Image(labelled(), np.eye(4)).to_bytes())
    transform = SamInputPromptsd()
    about = transform(data_with(image, tmp_path / "label.nii", frame=2))
    [prompts] = about["objects"]
    assert about["start"] is None and prompts.box.tolist() == [1, 1, 3, 4] and prompts.area.sum() == 6
    for sent, expected in (
        ({"negative_points": [{"x": 3, "y": 4}]}, [[1, 1], [3, 4]]),
        ({"scribbles": [{"points": [{"x": 3, "y": 4}], "width": 1}]}, [[3, 4]]),
    ):
        corrects = transform(data_with(image, tmp_path / "label.nii", frame=2, **sent))
        [prompts] = corrects["objects"]
        assert np.array_equal(corrects["start"], labelled()[..., 2].T == 7)
        assert np.array_equal(prompts.area, corrects["start"]) and prompts.points.tolist() == expected
    with pytest.raises(PromptError, match="leave rectangles and positive lassos out"):
        square = {"startX": 0, "startY": 0, "width": 2, "height": 2}
        transform(data_with(image, tmp_path / "label.nii", frame=2, rectangles=[square]))


def test_a_model_for_points_alone_starts_from_the_innermost_one_and_the_area():
    start = np.zeros((9, 9), dtype=bool)
    start[2:7, 3:8] = True
    prompts = start_prompts(start, [], [], ("point", "mask"))
    assert prompts.box is None and prompts.points.tolist() == [[5, 4]] and prompts.labels.tolist() == [1]


@pytest.mark.parametrize(("beside", "deep"), [((0, 0), (5, 4)), ((5, 4), (3, 3)), ((7, 6), (4, 3))])
def test_what_is_taken_away_leaves_a_point_deep_in_the_rest_and_no_box_around_all(beside, deep):
    start = np.zeros((9, 9), dtype=bool)
    start[2:7, 3:8] = True
    prompts = start_prompts(start, [], [beside], ("point", "box", "mask"))
    room = min(depth(start)[deep[::-1]], np.hypot(*np.subtract(deep, beside)))
    found = prompts.points[0]
    assert min(depth(start)[int(found[1]), int(found[0])], np.hypot(*(found - beside))) >= room
    assert prompts.box is None and prompts.points[1].tolist() == list(beside) and prompts.labels.tolist() == [1, 0]


def test_a_segmentation_may_leave_empty_frames_out(tmp_path, sample):
    grown = pydicom.dcmread(sample("CT_small.dcm"))
    pixels = grown.pixel_array
    folder = tmp_path / "series"
    folder.mkdir()
    for k in range(4):
        grown.ImagePositionPatient = [-158, -179, -75 + 5 * k]
        grown.SOPInstanceUID = grown.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        grown.save_as(folder / f"{k}.dcm")
    image = read_image(folder)
    labels = np.zeros((4, *pixels.shape), np.uint8)
    labels[2, 40:60, 50:90] = 1
    made = series_segmentation(
        labels,
        sources=image.datasets,
        segment_labels=["x"],
        algorithm_name="a",
        algorithm_version="1",
        instance_time=datetime.now(UTC),
    )
    assert made.NumberOfFrames == 1
    write(made, tmp_path / "seg.dcm")
    found = start_labels(data_with(image, tmp_path / "seg.dcm"), read_image)
    assert np.array_equal(found, labels)
    made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[
        0
    ].ReferencedSOPInstanceUID = "1.2.3.9"
    write(made, tmp_path / "other.dcm")
    with pytest.raises(ImageError, match="not each of its frames references an image of it"):
        start_labels(data_with(image, tmp_path / "other.dcm"), read_image)


@pytest.mark.parametrize("own", [None, 7, 2, 5])
def test_what_is_protected_is_all_but_the_object_s_own_number(image, tmp_path, own):
    (tmp_path / "label.nii").write_bytes(nibabel.Nifti1Image(labelled(), np.eye(4)).to_bytes())
    label = str(tmp_path / "label.nii")
    options = SegmentOptions(protect=True)
    request = SegmentRequest(Source.VIEWER, "", "", options=options, protecting_label=label, label_value=own)
    data = ProtectLabeld(read_image)({"image": image, REQUEST: request})
    expected = (labelled() != 0) & (labelled() != (own or 0))
    assert np.array_equal(data["protected"], expected.T)
    for nothing in (replace(request, protecting_label=None), replace(request, options=SegmentOptions())):
        assert ProtectLabeld(read_image)({"image": image, REQUEST: nothing})["protected"] is None


def test_one_object_may_have_any_value():
    assert one_object(np.array([[0.0, 255.0]]), "").tolist() == [[False, True]]

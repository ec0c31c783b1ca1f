"""Cases not covered by ``tests/geometry``: multi-frame sources, no position, several objects, refusals."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.imaging.dicom.data_sets import read_dataset, to_bytes, write
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.image import UnsupportedImageError
from lib.imaging.labels.series_segmentation import labels_from_segmentation, series_segmentation
from lib.imaging.readers import read_image

NAMES = ["liver", "left kidney", "lesion"]


def make(labels: np.ndarray, sources: list[Dataset], **changes) -> Dataset:
    arguments = {"segment_labels": NAMES, "algorithm_name": "sam_tiny", "algorithm_version": "1.0"} | changes
    return series_segmentation(labels, sources=sources, instance_time=datetime(2026, 1, 2), **arguments)


@pytest.fixture
def series(make_ct, gradient) -> list[Dataset]:
    """Five slices with uneven gaps, the third one far from the second."""
    heights = [0.0, 2.0, 9.0, 11.0, 13.5]
    return [
        make_ct(gradient, ImagePositionPatient=[-10.0, 20.0, height], InstanceNumber=number)
        for number, height in enumerate(heights, start=1)
    ]


def some_labels() -> np.ndarray:
    """Objects 1 and 3 on slices 1 and 2, object 1 alone on slice 3."""
    labels = np.zeros((5, 5, 7), np.uint8)
    labels[1, 1, 2:5] = 1
    labels[1:3, 3, 0:2] = 3
    labels[2:4, 0, 6] = 1
    return labels


def test_frames_lie_where_their_sources_do_however_uneven(series, dciodvfy, tmp_path):
    made = make(some_labels(), series)
    write(made, tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    found = [
        (
            groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            float(groups.PlanePositionSequence[0].ImagePositionPatient[2]),
            groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        for groups in made.PerFrameFunctionalGroupsSequence
    ]
    uids = [source.SOPInstanceUID for source in series]
    assert sorted(found) == [(1, 2, uids[1]), (1, 9, uids[2]), (1, 11, uids[3]), (3, 2, uids[1]), (3, 9, uids[2])]
    assert [item.ReferencedSOPInstanceUID for item in made.SourceImageSequence] == uids
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == NAMES
    assert {segment.SegmentAlgorithmName for segment in made.SegmentSequence} == {"sam_tiny"}
    models = ["auto_liver@1", "auto_left_kidney@4", "auto_lesion@2"]
    several = make(some_labels(), series, algorithm_name=models)
    assert [segment.SegmentAlgorithmName for segment in several.SegmentSequence] == models


def test_it_comes_back_as_it_was(series):
    again = read_dataset(to_bytes(make(some_labels(), series)))
    np.testing.assert_array_equal(labels_from_segmentation(again, series), some_labels())
    np.testing.assert_array_equal(labels_from_segmentation(again, series[::-1]), some_labels()[::-1])


def test_no_voxel_gives_one_empty_frame_a_segment(series, dciodvfy, tmp_path):
    empty = np.zeros((5, 5, 7), np.uint8)
    made = make(empty, series)
    write(made, tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    assert made.NumberOfFrames == len(made.SegmentSequence) == 3
    np.testing.assert_array_equal(labels_from_segmentation(read_dataset(to_bytes(made)), series), empty)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("kind", ["enhanced CT", "enhanced MR"])
def test_a_multi_frame_image_is_a_series_too(multi_frame, save, kind, dciodvfy, tmp_path):
    path = save(multi_frame(kind))
    grid, image = read_series_grid(path), read_image(path)
    assert grid.shape == image.frames.shape == (4, 6, 8)
    np.testing.assert_allclose(grid.affine, image.affine)
    labels = np.zeros(grid.shape, np.uint8)
    labels[1:3, 2, 3:6] = 1
    made = make(labels, list(grid.sources))
    write(made, tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    frames = [
        int(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for groups in made.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(frames) == [2, 3]
    np.testing.assert_array_equal(labels_from_segmentation(read_dataset(to_bytes(made)), grid.sources), labels)


def test_without_a_place_one_slice_can_be_segmented_and_no_more(series):
    for source in series:
        del source.ImagePositionPatient
    one = np.zeros((5, 5, 7), np.uint8)
    one[2, 1, 1] = 1
    assert make(one, series).NumberOfFrames == 1
    with pytest.raises(UnsupportedImageError, match="no place"):
        make(some_labels(), series)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("FrameOfReferenceUID", "1.2.3.99", "differ in FrameOfReferenceUID"),
        ("SeriesInstanceUID", "1.2.3.99", "differ in SeriesInstanceUID"),
        ("SOPInstanceUID", "", "does not state its SOP class"),
        ("ImagePositionPatient", [-10.0, 20.0, 2.0], "same place"),
        ("ImageOrientationPatient", [0, 1, 0, -1, 0, 0], "not parallel"),
    ],
)
def test_series_that_make_no_volume_are_refused(series, keyword, value, reason):
    setattr(series[2], keyword, value)
    with pytest.raises(UnsupportedImageError, match=reason):
        make(some_labels(), series)


@pytest.mark.parametrize(
    ("labels", "changes", "reason"),
    [
        (np.zeros((4, 5, 7), np.uint8), {}, "must be"),
        (np.zeros((5, 5, 7), np.int16), {}, "must be"),
        (some_labels(), {"segment_labels": ["liver"]}, "objects up to 3"),
        (some_labels(), {"segment_labels": []}, "names"),
        (some_labels(), {"segment_labels": ["a\\b", "b", "c"]}, "backslash"),
    ],
)
def test_misfits_are_refused(series, labels, changes, reason):
    with pytest.raises(ValueError, match=reason):
        make(labels, series, **changes)


def test_a_segmentation_of_another_series_is_not_laid_over_this_one(series, make_ct, gradient):
    again = read_dataset(to_bytes(make(some_labels(), series)))
    larger = [make_ct(np.zeros((9, 9), np.int16), SOPInstanceUID=source.SOPInstanceUID) for source in series]
    with pytest.raises(UnsupportedImageError, match="frames of"):
        labels_from_segmentation(again, larger)
    with pytest.raises(UnsupportedImageError, match="not each of its frames references"):
        labels_from_segmentation(again, [make_ct(gradient)])
    with pytest.raises(UnsupportedImageError, match="cannot be mapped"):
        labels_from_segmentation(series[0], series)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "overlapping"])
def test_what_is_no_label_map_is_refused(series, kind):
    again = read_dataset(to_bytes(make(some_labels(), series)))
    if kind == "FRACTIONAL":
        again.SegmentationType, again.SegmentationFractionalType, again.MaximumFractionalValue = (
            kind,
            "PROBABILITY",
            255,
        )
        again.BitsAllocated = again.BitsStored = 8
        again.HighBit = 7
        again.PixelData = bytes(range(176))  # 5 frames of 35 pixels, and one byte to make the length even
    else:
        again.PixelData = b"\xff" * len(again.PixelData)
    with pytest.raises(UnsupportedImageError, match="cannot be mapped"):
        labels_from_segmentation(again, series)

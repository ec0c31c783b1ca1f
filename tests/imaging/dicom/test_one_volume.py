"""Series and multi-frame images that do not form a volume, or one with gaps: no slice is silently misplaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.formats.nifti import has_position, write_nifti
from lib.imaging.image import CorruptImageError, NotOneVolumeError, UnsupportedImageError
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.readers import read_image
from support.items import NO_PLACE, item

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]
Slices = list[dict]


@pytest.fixture
def series(make_ct, gradient, tmp_path) -> Callable[[Slices], Path]:
    """Return a function that writes slices, given by their attributes, to a folder in a meaningless order."""

    def make(slices: Slices) -> Path:
        folder = tmp_path / "series"
        folder.mkdir(exist_ok=True)
        for n, attributes in enumerate(slices):
            stored = (gradient + attributes.pop("add", 0)).astype(np.int16)
            write(make_ct(stored, InstanceNumber=n + 1, SliceThickness=5, **attributes), folder / f"{n * 37 % 101:03}")
        return folder

    return make


def at(z: float, **attributes) -> dict:
    """Return the attributes of a slice at this height (mm)."""
    return {"ImagePositionPatient": [-10.0, 20.0, round(z, 6)], **attributes}


def stack(count: int = 6, step: float = 2.5, start: float = 0.0, **attributes) -> Slices:
    return [at(start + step * k, **attributes) for k in range(count)]


NO_VOLUMES = {
    "slices of two patients": ([*stack(4), *stack(2, start=10, PatientID="2")], r"2 values \(4, 2 times\).*0010,0020"),
    "slices of two studies": ([*stack(4), at(10, StudyInstanceUID="1.2.3")], r"\(4, 1 times\).*0020,000D"),
    "one without a direction": ([*stack(4), at(10, ImageOrientationPatient=None)], r"4 of them.*0020,0037"),
    "places without a direction": (stack(ImageOrientationPatient=None), "different places, but no valid"),
    "directions that are none": (stack(ImageOrientationPatient=[0] * 6), "different places, but no valid"),
    "two directions in one": (stack(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "different places, but no valid"),
    "a slice twice, with other pixels": ([*stack(), at(5, add=3)], r"lie at 6 places, and no attribute"),
    "a slice twice, with the same pixels": ([*stack(), at(5)], "lie at 6 places"),
    "a localizer": (
        [*stack(), at(9, ImageOrientationPatient=CORONAL)],
        r"2 values \(6, 1 times\).*0020,0037.*localizer",
    ),
    "a localizer in the same direction": (
        [*stack(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]), at(15, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
        "1 of them are localizers",
    ),
    "turned rows": ([*stack(5), at(12.5, ImageOrientationPatient=[0, 1, 0, -1, 0, 0])], "0020,0037"),
    "other pixel spacing": ([*stack(5), at(12.5, PixelSpacing=[0.5, 0.5])], "Pixel Spacing .0028,0030"),
    "time points": (
        [*stack(TemporalPositionIdentifier=1), *stack(TemporalPositionIdentifier=2)],
        r"12 images .* 6 places, as they have 2 values \(6, 6 times\) of Temporal Position Identifier \(0020,0100\)",
    ),
    "echoes": ([*stack(EchoTime=4.6), *stack(EchoTime=9.2)], "Echo Time .0018,0081"),
    "b-values": ([*stack(DiffusionBValue=0.0), *stack(DiffusionBValue=800.0)], "Diffusion b-value"),
    "cardiac phases": (
        [one for t in (0, 40, 80) for one in stack(TriggerTime=t)],
        r"3 values \(6, 6, 6 times\) of Trigger Time",
    ),
    "water and fat": (
        [*stack(ImageType=["DERIVED", "PRIMARY", "W"]), *stack(ImageType=["DERIVED", "PRIMARY", "F"])],
        "Image Type .0008,0008",
    ),
    "acquisitions": ([*stack(AcquisitionNumber=1), *stack(AcquisitionNumber=2)], "Acquisition Number"),
    "echoes at several times": (
        [one for e in (3.0, 6.0) for t in (1, 2) for one in stack(EchoTime=e, TemporalPositionIdentifier=t)],
        "differ in Temporal Position Identifier .* and Echo Time",
    ),
    "interleaved echoes": (
        [*stack(step=5, EchoNumbers=1), *stack(step=5, start=2.5, EchoNumbers=2)],
        r"2 values \(6, 6 times\) of Echo Number.* are interleaved",
    ),
    "interleaved acquisitions": (
        [*stack(AcquisitionNumber=1), *stack(start=1.0, AcquisitionNumber=2)],
        "Acquisition Number .* are interleaved",
    ),
    "frames of reference": ([*stack(5), at(12.5, FrameOfReferenceUID="1.2.3.77")], "Frame of Reference UID"),
    "one without a place": ([*stack(), {"ImagePositionPatient": None}], "6 of them have a valid Image Position"),
    "nearly the same places": (
        [*stack(TemporalPositionIdentifier=1), *stack(start=0.004, TemporalPositionIdentifier=2)],
        "6 places.*Temporal Position",
    ),
    "a slice twice, without pixel spacing": (
        [{**one, "PixelSpacing": None} for one in [*stack(), at(5, add=3)]],
        "lie at 6 places",
    ),
}


@pytest.mark.parametrize("name", NO_VOLUMES)
def test_images_that_are_not_one_volume_are_refused_and_named(series, name):
    slices, found = NO_VOLUMES[name]
    folder = series(slices)
    with pytest.raises(NotOneVolumeError, match=found):
        read_image(folder)
    with pytest.raises(NotOneVolumeError, match=found):
        read_series_grid(folder)


ORDINARY = {
    "each slice its own acquisition and time": [
        at(2.5 * k, AcquisitionNumber=k + 1, AcquisitionTime=f"12000{k}", TriggerTime=40 * k, EchoTime=4 + k / 100)
        for k in range(6)
    ],
    "two acquisitions, one after the other": [
        *stack(3, AcquisitionNumber=1, ConvolutionKernel="A"),
        *stack(3, start=7.5, AcquisitionNumber=2, ConvolutionKernel="B"),
    ],
    "positions to one decimal": [at(round(0.625 * k, 1)) for k in range(40)],
    "directions rounded": [
        at(2.5 * k, ImageOrientationPatient=[1, 0, 0, 0, 1, 0 if k % 2 else 1e-5]) for k in range(6)
    ],
    "thinner steps than slices": stack(step=1.25),
    "two slices": stack(2),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_series_are_volumes(series, name):
    image = read_image(series(ORDINARY[name]))
    assert image.is_geometric and image.positions is None and image.volume_fault == "" and image.notes == ()
    heights = [float(header.ImagePositionPatient[2]) for header in image.datasets]
    found = [(image.affine @ (0, 0, k, 1))[2] for k in range(image.frame_count)]
    step = image.affine[2, 2]
    assert (
        np.abs(np.subtract(found, heights)).max() <= max(0.1 * step, 0.1) + 1e-6
    )  # the tolerance that the reader states


def test_the_same_instance_twice_counts_once_and_that_is_said(series):
    folder = series(stack())
    shutil.copy(folder / "037", folder / "again")
    image = read_image(folder)
    assert image.frame_count == 6
    assert image.notes == ("1 of 7 files repeat an instance and were skipped",)
    assert len(read_series_grid(folder).sources) == 6


def test_one_uid_for_different_images_is_refused(series):
    with pytest.raises(NotOneVolumeError, match="same SOP Instance UID"):
        read_image(series([*stack(), at(5, SOPInstanceUID="1.2.3.5"), at(5, SOPInstanceUID="1.2.3.5", add=1)]))


def test_bad_files_among_the_slices_are_left_out(series):
    folder = series(stack())
    (folder / "._00").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(60))
    (folder / "empty").touch()
    (folder / "bad").write_bytes((folder / "037").read_bytes()[:300])
    (folder / "folder.dcm").mkdir()
    image = read_image(folder)
    assert image.frame_count == 6 and image.positions is None
    assert image.notes == ("1 of 7 DICOM files are damaged and were skipped",)


def test_nothing_but_damaged_files(series):
    folder = series(stack(2))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptImageError, match="damaged"):
        read_image(folder)


def test_slices_of_other_size_are_counted(series, make_ct):
    folder = series(stack())
    write(make_ct(np.zeros((4, 4), np.int16), **at(99)), folder / "x")
    with pytest.raises(CorruptImageError, match="differ in size: 6 of 7 x 5, 1 of 4 x 4"):
        read_image(folder)


# ---- gaps

GAPS = {
    "a slice is missing": [0, 2.5, 5, 10, 12.5, 15],
    "the second half is thicker": [0, 2, 4, 6, 11, 16, 21],
    "all over": [0, 2, 9, 11, 13.5],
}


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_a_label_lies_right_on_the_slice_that_it_marks_however_uneven(series, tmp_path, name, suffix):
    heights = GAPS[name]
    image = read_image(series([at(z) for z in heights]))
    assert image.is_geometric and "missing or unevenly spaced" in image.notes[0]
    for k, height in enumerate(heights):
        labels = np.zeros(image.frames.shape, np.uint8)
        labels[k, 1, 2] = 1
        write_label_volume(labels, image.affine_for([k]), tmp_path / f"label{suffix}")
        label = SimpleITK.ReadImage(str(tmp_path / f"label{suffix}"))
        assert label.GetSize() == (7, 5, len(heights))  # the viewers' voxel grid is unchanged
        place = label.TransformIndexToPhysicalPoint((2, 1, k))
        np.testing.assert_allclose(place, [-10 + 0.25 * 2, 20 + 0.5, height], atol=1e-4)


def test_a_missing_slice_is_named_and_its_neighbours_keep_their_step(series):
    image = read_image(series([at(z) for z in GAPS["a slice is missing"]]))
    assert "5 mm between slices 3 and 4 at a usual step of 2.5 mm (1 of 5 steps differ)" in image.notes[0]
    assert image.affine[2, 2] == pytest.approx(2.5)


def test_labels_across_a_gap_are_refused_and_beside_it_are_not(series):
    folder = series([at(z) for z in GAPS["a slice is missing"]])
    image = read_image(folder)
    for slices, start in (([0, 1, 2], 0), ([3, 4, 5], 2.5), ([3, 5], 2.5)):
        np.testing.assert_allclose(image.affine_for(slices)[:3, 2:], [[0, 10], [0, -20], [2.5, start]])
    for slices in ([2, 3, 4], range(6)):
        with pytest.raises(NotOneVolumeError, match="dicom_seg"):
            image.affine_for(slices)
    assert read_series_grid(folder).affine is None


def test_as_nifti_an_uneven_series_says_that_it_has_no_place(series, tmp_path):
    image = read_image(series([at(z) for z in GAPS["a slice is missing"]]))
    write_nifti(image, tmp_path / "a.nii.gz")
    assert not has_position(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").frames, image.frames)


# ---- several frames in one file


@pytest.fixture
def multi(make_ct, save) -> Callable[..., Path]:
    """Return a function that writes one enhanced image with frames given by their functional groups."""

    def make(frames: list[Dataset], **attributes) -> Path:
        shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=5)])
        stored = np.arange(len(frames) * 12, dtype=np.uint16).reshape(len(frames), 3, 4)
        return save(
            make_ct(
                stored,
                **dict.fromkeys(NO_PLACE),
                SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
                SharedFunctionalGroupsSequence=[shared],
                PerFrameFunctionalGroupsSequence=frames,
                **attributes,
            )
        )

    return make


def frame(z: float, orientation: list[float] = AXIAL, content: dict | None = None, **groups: Dataset) -> Dataset:
    return item(
        PlanePositionSequence=[item(ImagePositionPatient=[1.0, 2.0, z])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=orientation)],
        FrameContentSequence=[item(**(content or {}))],
        **{name: [group] for name, group in groups.items()},
    )


HEIGHTS = [0.0, 2.5, 5.0]
SEVERAL = {
    "one without a direction": ([*map(frame, HEIGHTS), frame(7.5, [0] * 6)], "3 of them .*0020,0037"),
    "places without a direction": ([frame(z, [0] * 6) for z in HEIGHTS], "different places, but no valid"),
    "two stacks": (
        [frame(z, content={"StackID": "1"}) for z in HEIGHTS]
        + [frame(z, CORONAL, content={"StackID": "2"}) for z in HEIGHTS],
        "0020,0037",
    ),
    "time points": (
        [frame(z, content={"TemporalPositionIndex": t}) for t in (1, 2) for z in HEIGHTS],
        "6 frames .* 3 places, as they have 2 values .* Temporal Position Index",
    ),
    "echoes in turn": (
        [frame(z, MREchoSequence=item(EffectiveEchoTime=e)) for z in HEIGHTS for e in (4.0, 8.0)],
        "Effective Echo Time",
    ),
    "b-values": (
        [frame(z, MRDiffusionSequence=item(DiffusionBValue=b)) for b in (0.0, 800.0) for z in HEIGHTS],
        "Diffusion b-value",
    ),
    "one slice over time": (
        [frame(3.0, content={"TemporalPositionIndex": t}) for t in (1, 2, 3)],
        "3 frames .* 1 place",
    ),
    "interleaved stacks": (
        [frame(2 * z + s, content={"StackID": str(s)}) for z in HEIGHTS for s in (0.0, 2.5)],
        "Stack ID .* are interleaved",
    ),
    "odd frames first": ([frame(z) for z in (0.0, 5.0, 10.0, 2.5, 7.5)], "not in the order"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_frames_that_are_not_one_volume_can_be_seen_but_make_none(multi, name, tmp_path):
    frames, found = SEVERAL[name]
    path = multi(frames)
    image = read_image(path)
    assert image.frame_count == len(frames)
    with pytest.raises(NotOneVolumeError, match=found):
        image.affine_for([1])
    assert image.notes == (image.volume_fault,)
    assert read_series_grid(path).affine is None
    write_nifti(image, tmp_path / "a.nii.gz")
    assert not has_position(tmp_path / "a.nii.gz")


def test_several_files_of_several_frames_are_refused(series, make_ct):
    folder = series(stack())
    write(make_ct(np.zeros((2, 5, 7), np.int16)), folder / "x")
    with pytest.raises(UnsupportedImageError, match="multi-frame"):
        read_image(folder)


def test_frames_with_one_place_for_all_are_stepped_only_if_their_step_is_stated(make_ct, save):
    stored = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    stepped = read_image(save(make_ct(stored, SpacingBetweenSlices=2.5)))
    np.testing.assert_allclose(stepped.affine_for([1])[:3, 2], [0, 0, 2.5])
    with pytest.raises(NotOneVolumeError, match=r"3 frames .* 1 place"):
        read_image(save(make_ct(stored))).affine_for([1])

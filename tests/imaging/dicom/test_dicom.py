from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from lib.imaging.decoding import isolation
from lib.imaging.dicom.data_sets import read_dataset, to_bytes, write
from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError, Window
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image

OBLIQUE = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]
SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]


def itk_image(path: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


def itk_series(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_same_places(affine: np.ndarray, image: SimpleITK.Image) -> None:
    """Check that every corner voxel has the same position as in ITK (LPS there, RAS here)."""
    for corner in np.ndindex(2, 2, 2):
        index = [c * (size - 1) for c, size in zip(corner, image.GetSize(), strict=True)]
        lps = image.TransformIndexToPhysicalPoint(index)
        ras = affine @ (*index, 1)
        np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-4)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], OBLIQUE, SAGITTAL])
def test_affine_of_one_slice_is_itks(make_ct, save, gradient, orientation: list[float]) -> None:
    path = save(make_ct(gradient, ImageOrientationPatient=orientation))
    image = read_image(path)
    assert image.is_geometric and image.ijk_shape == (7, 5, 1)
    assert_same_places(image.affine, itk_image(path))
    assert np.linalg.norm(image.affine[:3, 2]) == pytest.approx(3)  # the slice thickness
    assert np.linalg.norm(image.affine[:3, 0]) == pytest.approx(0.25)  # along i: the second pixel spacing


def test_axial_affine_by_hand(make_ct, save, gradient) -> None:
    affine = read_image(save(make_ct(gradient, SliceThickness=None))).affine
    np.testing.assert_allclose(affine, [[-0.25, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": None},
        {"PixelSpacing": None},
        {"PixelSpacing": None, "ImagePositionPatient": None},
        {"ImagePositionPatient": None, "ImageOrientationPatient": None},
        {"ImageOrientationPatient": None},
    ],
)
def test_without_a_place_the_grid_is_itks(make_ct, save, gradient, attributes: dict) -> None:
    path = save(make_ct(gradient, SliceThickness=1, **attributes))
    image = read_image(path)
    assert not image.is_geometric
    assert_same_places(image.affine, itk_image(path))


def enhanced(make_ct, positions: list[list[float]]) -> Dataset:
    def item(**attributes) -> Dataset:
        made = Dataset()
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
        return made

    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=OBLIQUE)],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=4)],
    )
    frames = [item(PlanePositionSequence=[item(ImagePositionPatient=position)]) for position in positions]
    removed = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"))
    stored = np.arange(len(positions) * 8, dtype=np.uint16).reshape(-1, 2, 4)
    return make_ct(
        stored,
        **removed,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )


@pytest.mark.parametrize("step", [2.5, -2.5])
def test_enhanced_multi_frame_runs_from_first_to_last_position(make_ct, save, step: float) -> None:
    positions = [[1.0, 2.0, 3.0 + step * k] for k in range(5)]
    image = read_image(save(enhanced(make_ct, positions)))
    assert image.is_geometric and len(image.datasets) == 1 and image.frame_count == 5
    np.testing.assert_allclose(image.affine @ (0, 0, 4, 1), [-1, -2, 3 + step * 4, 1])
    np.testing.assert_allclose(image.affine @ (1, 0, 0, 1), [-1 - 0.8 * 0.25, -2 - 0.6 * 0.25, 3, 1])
    np.testing.assert_allclose(image.affine @ (0, 1, 0, 1), [-1 + 0.6 * 0.5, -2 - 0.8 * 0.5, 3, 1])


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelSpacing": [0, 1]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    ],
)
def test_impossible_attributes_count_as_absent(make_ct, save, gradient, attributes: dict) -> None:
    image = read_image(save(make_ct(gradient, **attributes)))
    (keyword,) = attributes
    absent = read_image(save(make_ct(gradient, **{keyword: None})))
    assert not image.is_geometric
    np.testing.assert_array_equal(image.affine, absent.affine)


def test_rt_dose_frames_are_moved_by_their_offsets(sample) -> None:
    image = read_image(sample("rtdose.dcm"))
    header = image.datasets[0]
    offsets = [float(value) for value in header.GridFrameOffsetVector]
    assert np.linalg.norm(image.affine[:3, 2]) == pytest.approx((offsets[-1] - offsets[0]) / (len(offsets) - 1))


def test_headers_have_no_pixels_and_no_path(make_ct, save, gradient) -> None:
    path = save(make_ct(gradient))
    (header,) = read_image(path).datasets
    assert "PixelData" not in header and header.PatientName == "Phantom^Test"
    assert header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert str(path) not in repr(vars(header))


def test_what_is_no_image_is_named(sample) -> None:
    for name, kind in [
        ("rtstruct.dcm", "RT Structure Set Storage"),
        ("test-SR.dcm", "Comprehensive SR Storage"),
        ("rtplan.dcm", "RT Plan Storage"),
    ]:
        with pytest.raises(UnsupportedImageError, match=kind):
            read_image(sample(name))


def test_truncated_pixels_are_corrupt(sample) -> None:
    with pytest.raises(CorruptImageError, match="truncated"):
        read_image(sample("MR_truncated.dcm"))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_undecodable_frame_count_is_corrupt(sample) -> None:
    with pytest.raises(CorruptImageError, match="NumberOfFrames"):
        read_image(sample("badVR.dcm"))


def test_limit_is_checked_from_the_header(make_ct, save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make_ct(np.zeros((3, 4, 5), np.uint8)))
    assert read_image(path, limits=Limits(max_pixels=60)).frame_count == 3
    monkeypatch.setattr(isolation, "_is_worker", True)  # run in this process, where the replacement applies
    monkeypatch.setattr("lib.imaging.dicom.reader.decode_pixels", lambda dataset: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="60 pixels"):
        read_image(path, limits=Limits(max_pixels=59))


def test_a_deflated_bomb_is_refused(make_ct, save, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_ct(np.zeros((600, 600), np.uint8))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = save(dataset)
    assert read_image(path).frames.shape == (1, 600, 600)
    monkeypatch.setattr(isolation, "_is_worker", True)  # run in this process, where the replacement applies
    monkeypatch.setattr("lib.imaging.dicom.data_sets._MAX_INFLATED_BYTES", 300_000)
    with pytest.raises(ImageTooLargeError, match="inflates"):
        read_image(path)


def test_without_preamble_and_meta(make_ct, save, gradient, tmp_path: Path) -> None:
    whole = save(make_ct(gradient)).read_bytes()
    body = whole[whole.index(b"\x08\x00\x08\x00CS") :]
    (tmp_path / "bare").write_bytes(body)
    np.testing.assert_array_equal(read_image(tmp_path / "bare").frames[0], gradient)


def test_bytes_round_trip(make_ct, gradient, tmp_path: Path) -> None:
    dataset = make_ct(gradient, PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192")
    encoded = to_bytes(dataset)
    assert encoded[128:132] == b"DICM"
    again = read_dataset(encoded)
    assert again.PatientName == "Müller^Jörg" and again.PixelData == dataset.PixelData
    write(dataset, tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == encoded
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


# ---- series


def save_series(make_ct, save, *, count: int = 7, step: tuple[float, float, float] = (0, 0, 2.5), **attributes) -> Path:
    """Write slices ``1000 x k + gradient`` to files whose names and instance numbers are in another order."""
    order = list(range(count))
    random.Random(5).shuffle(order)
    rows_columns = (np.arange(5)[:, None] * 100 + np.arange(7)).astype(np.int16)
    folder = Path()
    for number, k in enumerate(order):
        dataset = make_ct(
            (1000 * k + rows_columns).astype(np.int16),
            ImagePositionPatient=[-10 + step[0] * k, 20 + step[1] * k, 30 + step[2] * k],
            InstanceNumber=number + 1,
            **attributes,
        )
        folder = save(dataset, f"series/file{number:02}").parent
    return folder


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        ([1, 0, 0, 0, 1, 0], (0, 0, 2.5)),
        ([1, 0, 0, 0, 1, 0], (0, 0, -2.5)),
        (SAGITTAL, (3.0, 0, 0)),
        ([1, 0, 0, 0, -1, 0], (0, 0, 2.0)),
    ],
)
def test_series_has_itks_voxels_at_itks_places(make_ct, save, orientation, step) -> None:
    folder = save_series(make_ct, save, step=step, ImageOrientationPatient=orientation)
    expected = itk_series(folder)
    image = read_image(folder)
    np.testing.assert_array_equal(image.frames, SimpleITK.GetArrayFromImage(expected))
    assert_same_places(image.affine, expected)
    assert image.is_geometric and len(image.datasets) == 7
    for k, header in enumerate(image.datasets):
        position = [float(value) for value in header.ImagePositionPatient]
        np.testing.assert_allclose(image.affine @ (0, 0, k, 1), (-position[0], -position[1], position[2], 1), atol=1e-6)


def test_gantry_tilt_is_in_the_affine(make_ct, save) -> None:
    image = read_image(save_series(make_ct, save, step=(0, 0.7, 2.5)))
    np.testing.assert_allclose(image.affine[:3, 2], [0, -0.7, 2.5])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_impossible_geometry_is_corrupt(make_ct, save) -> None:
    with pytest.raises(CorruptImageError, match="geometry"):
        read_image(save(enhanced(make_ct, [[0, 0, -1.5e308], [0, 0, 1.5e308]])))


def test_other_files_in_the_folder_are_ignored(make_ct, save, sample) -> None:
    folder = save_series(make_ct, save)
    (folder / "DICOMDIR").write_bytes(sample("DICOMDIR").read_bytes())
    (folder / "notes.txt").write_text("nothing")
    (folder / "report").write_bytes(sample("test-SR.dcm").read_bytes())
    assert read_image(folder).frame_count == 7


def test_two_series_are_refused(make_ct, save, gradient) -> None:
    folder = save_series(make_ct, save)
    save(make_ct(gradient, SeriesInstanceUID="1.2.3.99"), "series/other")
    with pytest.raises(UnsupportedImageError, match="2 DICOM series"):
        read_image(folder)


def test_slices_of_different_size_are_refused(make_ct, save, gradient) -> None:
    folder = save_series(make_ct, save)
    save(make_ct(gradient[:4], ImagePositionPatient=[-10, 20, 99]), "series/other")
    with pytest.raises(CorruptImageError, match="differ in size"):
        read_image(folder)


def test_several_multi_frames_are_refused(make_ct, save) -> None:
    for number in range(2):
        folder = save(make_ct(np.zeros((2, 4, 4), np.uint8), InstanceNumber=number + 1), f"series/{number}").parent
    with pytest.raises(UnsupportedImageError, match="multi-frame"):
        read_image(folder)


@pytest.mark.parametrize("content", [None, b"text"])
def test_a_folder_without_images(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(UnsupportedImageError, match="no DICOM image"):
        read_image(tmp_path)


def test_a_folder_of_one_file_is_that_file(make_ct, save, gradient) -> None:
    folder = save(make_ct(gradient), "series/only").parent
    np.testing.assert_array_equal(read_image(folder).frames[0], gradient)


def test_series_limit(make_ct, save) -> None:
    folder = save_series(make_ct, save)
    with pytest.raises(ImageTooLargeError, match="245 pixels"):
        read_image(folder, limits=Limits(max_pixels=244))


def test_slices_with_their_own_slopes_become_one_kind(make_ct, save, gradient) -> None:
    for k, slope in enumerate((1, 0.5, 2)):
        dataset = make_ct(gradient, ImagePositionPatient=[0, 0, k], InstanceNumber=k + 1, RescaleSlope=slope)
        dataset.RescaleIntercept = 0
        folder = save(dataset, f"series/{k}").parent
    frames = read_image(folder).frames
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[:, 4, 6], [406, 203, 812])


def test_real_series(shared_data: Path) -> None:
    expected = itk_series(shared_data / "ct_j2k")
    image = read_image(shared_data / "ct_j2k")
    np.testing.assert_array_equal(image.frames, SimpleITK.GetArrayFromImage(expected))
    assert_same_places(image.affine, expected)
    assert image.modality == "CT" and image.frames.dtype == np.int16
    assert image.display(0).transforms == (Window(40, 300), Window(300, 1500))
    np.testing.assert_array_equal(read_image(shared_data / "ct_raw").frames, image.frames)


def test_reading_changes_no_header(make_ct, save, gradient) -> None:
    dataset = make_ct(gradient)
    before = copy.deepcopy(dataset)
    (header,) = read_image(save(dataset)).datasets
    for element in before:
        if element.keyword != "PixelData":
            assert header[element.tag] == element


def test_multi_frame_ultrasound_in_colour(make_ct, save) -> None:
    removed = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"))
    rgb = np.random.default_rng(3).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    dataset = make_ct(rgb, **removed, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", Modality="US")
    image = read_image(save(dataset))
    assert image.is_colour and not image.is_geometric and image.modality == "US"
    np.testing.assert_array_equal(image.frames, rgb)
    assert pydicom.uid.UID(image.datasets[0].SOPClassUID).name == "Ultrasound Multi-frame Image Storage"


class TestTransferSyntaxThatIsNotStated:
    """Some exporters write an empty (0002,0010): it is detected from the encoding, unless pixels are compressed."""

    @staticmethod
    def without_syntax(path: Path) -> bytes:
        content = path.read_bytes()
        at = content.index(b"\x02\x00\x10\x00UI")
        length = int.from_bytes(content[at + 6 : at + 8], "little")
        group_length = int.from_bytes(content[140:144], "little") - length
        cut = content[: at + 6] + bytes(2) + content[at + 8 + length :]
        return cut[:140] + group_length.to_bytes(4, "little") + cut[144:]

    @pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
    def test_is_found(self, sample, tmp_path, name):
        (tmp_path / "upload").write_bytes(self.without_syntax(sample(name)))
        np.testing.assert_array_equal(read_image(tmp_path / "upload").frames, read_image(sample("MR_small.dcm")).frames)

    def test_of_compressed_pixels_is_asked_for(self, sample, tmp_path):
        (tmp_path / "upload").write_bytes(self.without_syntax(sample("MR_small_jp2klossless.dcm")))
        with pytest.raises(UnsupportedImageError, match=r"does not state its transfer syntax .0002,0010."):
            read_image(tmp_path / "upload")

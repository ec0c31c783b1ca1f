from __future__ import annotations

import gzip
import time
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.imaging.labels.label_writers import LABEL_DTYPES, write_label_volume
from lib.imaging.labels.slice_labels import SliceLabels
from lib.imaging.readers import read_image

LABELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
AFFINE = np.array([[0.0, -0.5, 0.1, 10], [0.8, 0, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii", ".NRRD"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_round_trip_by_this_package(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"labels{suffix}"
    write_label_volume(LABELS, AFFINE, path, dtype=dtype)
    image = read_image(path)
    assert image.frames.dtype == dtype and image.is_geometric
    np.testing.assert_array_equal(image.frames, LABELS)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_simpleitk_sees_the_same_voxels_at_the_same_places(tmp_path: Path, suffix: str) -> None:
    straight = np.diag([0.5, 0.8, 2.5, 1]) @ np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    straight[:3, 3] = 10, -20, 30
    path = str(tmp_path / f"labels{suffix}")
    write_label_volume(LABELS, straight, path)
    image = SimpleITK.ReadImage(path)
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    assert image.GetPixel(3, 1, 1) == LABELS[1, 1, 3]
    lps = image.TransformIndexToPhysicalPoint((3, 1, 1))
    ras = straight @ (3, 1, 1, 1)
    np.testing.assert_allclose(lps, (-ras[0], -ras[1], ras[2]), atol=1e-5)


def test_pynrrd_and_nibabel_read_it(tmp_path: Path) -> None:
    write_label_volume(LABELS, AFFINE, tmp_path / "a.nrrd", dtype="int16")
    data, header = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(data, LABELS.T)
    assert (header["space"], header["encoding"], header["kinds"]) == ("left-posterior-superior", "gzip", ["domain"] * 3)
    np.testing.assert_allclose(header["space directions"], (np.diag([-1, -1, 1]) @ AFFINE[:3, :3]).T)
    write_label_volume(LABELS, AFFINE, tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), LABELS.T)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_png_of_one_slice(tmp_path: Path) -> None:
    write_label_volume(LABELS[1:], AFFINE, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), LABELS[1])


def test_memory_order_does_not_matter(tmp_path: Path) -> None:
    write_label_volume(np.asfortranarray(LABELS)[::-1], AFFINE, tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd").frames, LABELS[::-1])


@pytest.mark.parametrize(
    ("labels", "name", "dtype", "reason"),
    [
        (LABELS, "a.mha", "uint8", r"\.nrrd, \.nii\.gz, \.nii, \.png"),
        (LABELS, "a", "uint8", r"\.nrrd"),
        (LABELS, "a.png", "uint8", "one slice"),
        (LABELS, "a.nrrd", "complex64", "uint8"),
        (LABELS[0], "a.nrrd", "uint8", "rows"),
        (LABELS.astype(np.int32) + 300, "a.nrrd", "uint8", "do not fit"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, labels: np.ndarray, name: str, dtype: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        write_label_volume(labels, AFFINE, tmp_path / name, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@given(
    data=st.data(), dtype=st.sampled_from(sorted(LABEL_DTYPES)), suffix=st.sampled_from([".nrrd", ".nii.gz", ".nii"])
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_held_slices_are_written_like_the_whole_volume(tmp_path: Path, data, dtype: str, suffix: str) -> None:
    count = data.draw(st.integers(1, 1000), "slices")
    marked = data.draw(st.sets(st.integers(0, count - 1), max_size=5), "marked")
    generator = np.random.default_rng(count)
    labels = SliceLabels((count, 6, 7), {k: generator.integers(0, 5, (6, 7), np.uint8) for k in marked})
    path = tmp_path / f"labels{suffix}"
    write_label_volume(labels, AFFINE, path, dtype=dtype)
    volume = np.asarray(labels, dtype=dtype)
    if suffix == ".nrrd":
        header, _, packed = path.read_bytes().partition(b"\n\n")
        assert f"sizes: 7 6 {count}".encode() in header
        written = gzip.decompress(packed)
        assert written == volume.astype(volume.dtype.newbyteorder("<")).tobytes()
    else:
        expected = nibabel.Nifti1Image(volume.T, AFFINE)
        expected.set_sform(AFFINE, 1)
        expected.header.set_xyzt_units("mm")
        content = path.read_bytes()
        assert (gzip.decompress(content) if suffix == ".nii.gz" else content) == expected.to_bytes()


@pytest.mark.parametrize("count", [1, 2, 20, 1000])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_others_read_held_slices(tmp_path: Path, count: int, dtype: str) -> None:
    marked = np.zeros((40, 50), np.uint8)
    marked[10:20, 30:45] = 3
    labels = SliceLabels((count, 40, 50), {count // 2: marked, count - 1: marked})
    for suffix in (".nrrd", ".nii.gz", ".nii"):
        path = str(tmp_path / f"labels{suffix}")
        write_label_volume(labels, np.diag([0.5, 0.5, 2, 1]), path, dtype=dtype)
        read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, np.asarray(labels))
    data, _ = nrrd.read(str(tmp_path / "labels.nrrd"))
    assert data.dtype == dtype
    np.testing.assert_array_equal(data.T, np.asarray(labels))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_an_answer_of_200_slices_is_small_and_fast(tmp_path: Path, suffix: str) -> None:
    marked = np.zeros((512, 512), dtype=np.uint8)
    marked[150:350, 100:400] = 1
    labels = SliceLabels((200, 512, 512), {90: marked})
    path = tmp_path / f"a{suffix}"
    for answer, seconds in ((np.asarray(labels), 0.5), (labels, 0.03)):
        best = 9.0
        for _ in range(5):
            start = time.perf_counter()
            write_label_volume(answer, AFFINE, path)
            best = min(best, time.perf_counter() - start)
        assert best < seconds
        assert path.stat().st_size < 60_000

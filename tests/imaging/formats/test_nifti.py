from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from lib.imaging.readers import read_image

IJK = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)  # i, j, k
RAS = np.array([[0.0, 0.5, 0, 1], [0.8, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
LPS = np.diag([-1.0, -1, 1, 1]) @ RAS


def save(tmp_path: Path, image, name: str = "upload") -> Path:
    path = tmp_path / name
    path.write_bytes(image.to_bytes())
    return path


@pytest.mark.parametrize("affine", [RAS, LPS], ids=["RAS", "LPS"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_and_affine(tmp_path: Path, affine: np.ndarray, kind, packed: bool) -> None:
    path = save(tmp_path, kind(IJK, affine))
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    image = read_image(path)
    assert image.file_format == "NIfTI" and image.is_geometric and image.ijk_shape == (4, 3, 2)
    assert image.frames.dtype == np.int16 and image.frames.flags.c_contiguous
    for i, j, k in np.ndindex(4, 3, 2):
        assert image.frames[k, j, i] == IJK[i, j, k]
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)


def test_same_voxels_and_places_as_itk(tmp_path: Path) -> None:
    path = save(tmp_path, nibabel.Nifti1Image(IJK, RAS), "a.nii")
    expected, image = SimpleITK.ReadImage(str(path)), read_image(path)
    np.testing.assert_array_equal(image.frames, SimpleITK.GetArrayFromImage(expected))
    lps, ras = expected.TransformIndexToPhysicalPoint((3, 1, 1)), image.affine @ (3, 1, 1, 1)
    np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-5)


def test_scaling_gives_float32(tmp_path: Path) -> None:
    source = nibabel.Nifti1Image(IJK, RAS)
    source.header.set_slope_inter(0.5, -10)
    frames = read_image(save(tmp_path, _with_raw_scaling(source))).frames
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, IJK.T * 0.5 - 10)


def _with_raw_scaling(image: nibabel.Nifti1Image):
    """Nibabel rescales stored integers on writing; here they are unchanged and only the header has 0.5 and -10."""

    class Raw:
        @staticmethod
        def to_bytes() -> bytes:
            content = bytearray(nibabel.Nifti1Image(IJK, RAS).to_bytes())
            content[112:120] = np.array([0.5, -10], "<f4").tobytes()
            return bytes(content)

    return Raw


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_become_float32_and_finite(tmp_path: Path, dtype: type) -> None:
    values = IJK.astype(dtype)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    frames = read_image(save(tmp_path, nibabel.Nifti1Image(values, RAS))).frames
    assert frames.dtype == np.float32 and np.isfinite(frames).all()
    assert frames[0, 0, 0] == frames[1, 1, 1] == 1 and frames[1, 2, 3] == IJK[3, 2, 1]


def test_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    frames = read_image(save(tmp_path, nibabel.Nifti1Image(IJK, RAS, header))).frames
    assert frames.dtype == np.dtype("=i2")
    np.testing.assert_array_equal(frames, IJK.T)


def test_rgb24_is_colour(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (4, 3, 2, 3)).astype(np.uint8)
    packed = rgb.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(4, 3, 2)
    image = read_image(save(tmp_path, nibabel.Nifti1Image(packed, RAS)))
    assert image.is_colour
    np.testing.assert_array_equal(image.frames, rgb.transpose(2, 1, 0, 3))


@pytest.mark.parametrize(
    ("shape", "ijk"), [((4, 3), (4, 3, 1)), ((4, 3, 2, 1), (4, 3, 2)), ((4, 3, 1, 1, 1), (4, 3, 1))]
)
def test_dimensions_of_one_are_dropped(tmp_path: Path, shape: tuple, ijk: tuple) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = read_image(save(tmp_path, nibabel.Nifti1Image(voxels, RAS)))
    assert image.ijk_shape == ijk
    np.testing.assert_array_equal(image.frames, voxels.reshape(ijk).T)


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.zeros((4, 3, 2, 5), np.uint8), "4 x 3 x 2 x 5"),
        (np.zeros((4, 3, 2, 1, 3), np.uint8), "component"),
        (np.zeros((4, 3, 2), np.complex64), "complex"),
    ],
)
def test_more_than_one_volume_is_refused_not_cut(tmp_path: Path, voxels: np.ndarray, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        read_image(save(tmp_path, nibabel.Nifti1Image(voxels, RAS)))


@pytest.mark.parametrize("packed", [False, True])
def test_truncated(tmp_path: Path, packed: bool) -> None:
    content = nibabel.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)).astype(np.float32), RAS).to_bytes()
    content = gzip.compress(content) if packed else content
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptImageError):
        read_image(tmp_path / "a")


def test_huge_header_is_refused_before_reading(tmp_path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(IJK, RAS).to_bytes())
    content[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageTooLargeError):
        read_image(tmp_path / "a")


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(IJK, RAS)
    image.header["srow_x"] = 0
    content = bytearray(image.to_bytes())
    content[280:296] = bytes(16)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CorruptImageError, match="affine"):
        read_image(tmp_path / "a")


def test_real_volumes(shared_data: Path) -> None:
    for name, shape in (("ct_lowres.nii.gz", (122, 101, 112)), ("mr_lowres.nii.gz", (117, 91, 20))):
        image = read_image(shared_data / name)
        assert image.ijk_shape == shape
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(shared_data / name)))
        np.testing.assert_allclose(image.frames, expected)

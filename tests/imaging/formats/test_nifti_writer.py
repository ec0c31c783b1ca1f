from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.imaging.formats.nifti import is_sheared, write_nifti
from lib.imaging.image import MedicalImage
from lib.imaging.readers import read_image

STRAIGHT = np.array([[0.0, -0.5, 0, 10], [0.8, 0, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
SHEARED = STRAIGHT + np.array([[0, 0, 0.6, 0], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "uint8", "float32"])
@pytest.mark.parametrize("affine", [STRAIGHT, SHEARED], ids=["straight", "sheared"])
def test_values_and_place_come_back(tmp_path, dtype, affine):
    frames = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_nifti(MedicalImage(frames=frames, affine=affine, is_geometric=True), tmp_path / "a.nii.gz")
    again = read_image(tmp_path / "a.nii.gz")
    assert again.frames.dtype == dtype
    np.testing.assert_array_equal(again.frames, frames)
    np.testing.assert_allclose(again.affine, affine, atol=1e-5)


def test_colour(tmp_path):
    frames = np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3)
    write_nifti(MedicalImage(frames=frames), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").frames, frames)


def test_both_of_nifti_s_ways_say_the_same_unless_one_cannot(tmp_path):
    frames = np.zeros((2, 3, 4), np.int16)
    write_nifti(MedicalImage(frames=frames, affine=STRAIGHT), tmp_path / "straight.nii")
    header = nibabel.load(tmp_path / "straight.nii").header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), STRAIGHT, atol=1e-5)
    assert SimpleITK.ReadImage(str(tmp_path / "straight.nii")).GetSize() == (4, 3, 2)

    write_nifti(MedicalImage(frames=frames, affine=SHEARED), tmp_path / "sheared.nii")
    assert nibabel.load(tmp_path / "sheared.nii").header["qform_code"] == 0
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(tmp_path / "sheared.nii"))


def test_shear():
    assert is_sheared(SHEARED) and not is_sheared(STRAIGHT)

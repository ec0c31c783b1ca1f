"""The studies folder's first images: real, readable, and only where there was nothing."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

import sample_studies


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with spaces") / "my studies"
    assert [path.name for path in sample_studies.fill(folder)] == ["ct_spine.nii.gz", "mr_joint.nii.gz", "ct_head.png"]
    return folder


def test_the_volume_has_hounsfield_units_and_the_sources_geometry(studies: Path) -> None:
    volume = nibabel.load(studies / "ct_spine.nii.gz")
    source = pydicom.dcmread(sample_studies.dicom_file("CT_small.dcm"))
    assert volume.shape == (128, 128, 1)
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0].T, source.pixel_array.astype(int) - 1024)
    left, posterior, superior = source.ImagePositionPatient
    np.testing.assert_allclose(volume.affine[:3, 3], (-left, -posterior, superior), rtol=1e-6)
    np.testing.assert_allclose(volume.header.get_zooms()[:2], source.PixelSpacing, rtol=1e-6)


def test_the_png_is_the_head_in_a_brain_window(studies: Path) -> None:
    with Image.open(studies / "ct_head.png") as image:
        pixels = np.asarray(image)
    assert (pixels.shape, pixels.dtype) == ((512, 512), np.uint8)
    assert pixels[5, 5] == 0
    assert 80 < pixels[350, 250] < 200  # cerebellum: neither black nor white


def test_image_ids_differ(studies: Path) -> None:
    stems = [path.name.split(".")[0] for path in studies.iterdir()]
    assert len(set(stems)) == len(stems) == 3


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert sample_studies.fill(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert len(sample_studies.fill(tmp_path)) == 3


def test_the_example_image_is_the_png_or_the_dicom_file(studies: Path, tmp_path: Path) -> None:
    assert sample_studies.example_image(studies) == studies / "ct_head.png"
    assert sample_studies.example_image(tmp_path).suffix == ".dcm"


def test_a_missing_source_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such.dcm is not installed"):
        sample_studies.dicom_file("no_such.dcm")

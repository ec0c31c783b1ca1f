import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from lib.imaging.decoding.memory_budget import working_bytes
from lib.imaging.image import ImageError, ImageTooLargeError, MedicalImage
from lib.imaging.limits import Limits
from lib.transforms.load import LoadMedicalImage, LoadMedicalImaged


def test_files_of_several_kinds(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # i, j, k
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "volume.nii.gz")
    Image.fromarray(np.full((3, 5), 7, np.uint8)).save(tmp_path / "picture.png")
    load = LoadMedicalImage()
    volume = load(tmp_path / "volume.nii.gz")
    assert volume.ijk_shape == (2, 3, 4) and np.array_equal(volume.frames.T, values)
    assert load(str(tmp_path / "picture.png")).ijk_shape == (5, 3, 1)
    assert load(get_testdata_file("CT_small.dcm", download=False)).modality == "CT"


def test_arrays_and_images_pass():
    load = LoadMedicalImage()
    assert load(np.zeros((3, 5), np.int16)).frames.shape == (1, 3, 5)
    assert load(np.zeros((3, 5, 3), np.uint8)).is_colour
    assert load(np.zeros((4, 3, 5), np.float32)).frame_count == 4
    image = MedicalImage(frames=np.zeros((1, 2, 2)))
    loaded = LoadMedicalImaged()({"image": image, "other": 1})
    assert loaded.pop("reserved").size == working_bytes((2, 2))
    assert loaded == {"image": image, "other": 1}


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2), complex), np.zeros((0, 5)), "/no/such/file"])
def test_what_is_no_image_is_refused_without_naming_a_path(bad):
    with pytest.raises(ImageError) as caught:
        LoadMedicalImage()(bad)
    assert "/no" not in str(caught.value)


def test_the_limit_holds(tmp_path):
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / "picture.png")
    with pytest.raises(ImageTooLargeError):
        LoadMedicalImage(limits=Limits(max_pixels=1499))(tmp_path / "picture.png")
    assert LoadMedicalImage(limits=Limits(max_pixels=1500))(tmp_path / "picture.png").frame_size == (30, 50)


@pytest.mark.parametrize("size", [(3, 900), (900, 3)])
def test_an_image_that_is_all_but_a_line_is_refused(tmp_path, size):
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "line.png")
    with pytest.raises(ImageError, match="at most 256 times the other"):
        LoadMedicalImage()(tmp_path / "line.png")

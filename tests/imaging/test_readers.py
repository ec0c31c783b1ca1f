from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from lib.imaging.decoding import isolation
from lib.imaging.image import ImageError, ImageTooLargeError, MedicalImage, UnsupportedImageError
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image

DICOM_SAMPLES = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_implicit.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "image_dfl.dcm",
    "rtdose.dcm",
]


def raster(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(buffer, format=kind)
    return buffer.getvalue()


def nrrd(tmp_path: Path) -> bytes:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(tmp_path / "n.nrrd"), True)
    return (tmp_path / "n.nrrd").read_bytes()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"GIF89a\x01\x00", "GIF image"),
        (b"%PDF-1.4", "PDF document"),
        (b"PK\x03\x04stuff", "ZIP archive"),
        (b"hello", "text"),
        (bytes(2000), "binary data"),
    ],
)
def test_what_is_not_read_is_named_with_what_is(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "secret_patient_name.png"
    path.write_bytes(content)
    with pytest.raises(UnsupportedImageError, match=found) as caught:
        read_image(path)
    assert "PNG, JPEG, TIFF, BMP, DICOM, NIfTI and NRRD" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["DICOM", "DICOM series", "TIFF", "NIfTI", "NRRD"])
def test_too_many_frames_are_refused_by_the_header(tmp_path: Path, make_ct, save, monkeypatch, kind: str) -> None:
    path = tmp_path / "upload"
    voxels = np.arange(5 * 24, dtype=np.int16).reshape(5, 4, 6)
    if kind == "DICOM":
        save(make_ct(voxels), "upload")
    elif kind == "DICOM series":
        for number, voxel_slice in enumerate(voxels):
            place = {"ImagePositionPatient": [0, 0, number], "InstanceNumber": number}
            save(make_ct(voxel_slice, **place), f"upload/{number}")
    elif kind == "TIFF":
        pages = [Image.fromarray(voxel_slice.astype(np.uint16)) for voxel_slice in voxels]
        pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])
    elif kind == "NIfTI":
        path.write_bytes(nibabel.Nifti1Image(voxels.T, np.eye(4)).to_bytes())
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / "n.nrrd"))
        (tmp_path / "n.nrrd").rename(path)
    assert read_image(path, limits=Limits(max_frames=5)).frame_count == 5

    monkeypatch.setattr(isolation, "_is_worker", True)  # run in this process, where the replacement applies
    for decoder in (
        "lib.imaging.dicom.reader.decode_pixels",
        "lib.imaging.formats.tiff._pixels",
        "lib.imaging.formats.nifti._read_voxels",
        "SimpleITK.ImageFileReader.Execute",
    ):
        monkeypatch.setattr(decoder, lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="frames"):
        read_image(path, limits=Limits(max_frames=4))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore:.*:UserWarning:PIL", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "BMP", "NIfTI", "NRRD", *DICOM_SAMPLES])
def test_damaged_content_raises_nothing_but_image_errors(
    tmp_path: Path, sample: Callable[[str], Path], name: str
) -> None:
    """A file truncated or changed anywhere is read, or refused by this package's errors, without path or content."""
    if name == "NIfTI":
        content = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_bytes()
    elif name == "NRRD":
        content = nrrd(tmp_path)
    else:
        content = sample(name).read_bytes() if name.endswith(".dcm") else raster(name)
    path = tmp_path / "upload"
    random_numbers = random.Random(name)
    outcomes = set()
    for attempt in range(60):
        damaged = bytearray(content)
        if attempt % 3 == 0:
            damaged = damaged[: random_numbers.randrange(len(damaged))]
        else:
            end = len(damaged) if attempt % 3 == 1 else min(len(damaged), 1500)
            for _ in range(random_numbers.randint(1, 12)):
                damaged[random_numbers.randrange(end)] = random_numbers.randrange(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(type(read_image(path, limits=Limits(max_pixels=2_000_000))))
        except ImageError as error:
            outcomes.add(type(error))
            assert str(tmp_path) not in str(error) and "Traceback" not in str(error)
    assert outcomes - {MedicalImage}, "nothing was refused, so nothing was tried"

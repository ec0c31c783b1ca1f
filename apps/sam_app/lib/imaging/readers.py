"""The one way from a file or folder to a :class:`~lib.imaging.image.MedicalImage`."""

from __future__ import annotations

import os

from lib.imaging.dicom import read_dicom_file, read_dicom_series
from lib.imaging.image import MedicalImage, UnsupportedImageError
from lib.imaging.nifti import read_nifti
from lib.imaging.nrrd import read_nrrd
from lib.imaging.raster import read_raster
from lib.imaging.sniff import HEAD_LENGTH, READABLE, find_format

DEFAULT_MAX_PIXELS = 512 * 512 * 2048
"""Some 2,000 CT slices: 1 GiB as 16-bit values."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> MedicalImage:
    """Read an image, a multi-frame image or a volume; its format is found from its content, never from its name.

    Args:
        path: A PNG, JPEG, TIFF, BMP, DICOM, NIfTI (``.nii``, ``.nii.gz``) or NRRD file, or a folder that holds one
            DICOM series.
        max_pixels: The most pixels (frames x rows x columns) that are read; checked from the header, before
            anything is decoded.

    Returns:
        The image: modality values or RGB, voxel ``(i, j, k)`` at ``frames[k, j, i]``, the affine in RAS+ mm.

    Raises:
        UnsupportedImageError: Something else; the message says what was found.
        CorruptImageError: Truncated, damaged or contradictory.
        ImageTooLargeError: More than ``max_pixels``.
        OSError: The file itself cannot be opened. For any content that can be opened there is no other error.
    """
    if os.path.isdir(path):
        return read_dicom_series(path, max_pixels=max_pixels)
    with open(path, "rb") as file:
        file_format, description = find_format(file.read(HEAD_LENGTH))
        file.seek(0)
        if file_format is None:
            readable = ", ".join(READABLE[:-1])
            raise UnsupportedImageError(f"found: {description}. {readable} and {READABLE[-1]} images are read")
        if file_format == "DICOM":
            return read_dicom_file(file, max_pixels=max_pixels)
        if file_format == "NIfTI":
            return read_nifti(file, max_pixels=max_pixels)
        if file_format == "NRRD":
            return read_nrrd(path, file, max_pixels=max_pixels)
        return read_raster(file, file_format, max_pixels=max_pixels)

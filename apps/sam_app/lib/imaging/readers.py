"""The only entry point from a file or folder to a :class:`~lib.imaging.image.MedicalImage`."""

import os

from lib.imaging.decoding.isolation import isolated
from lib.imaging.dicom.reader import read_dicom_file, read_dicom_series
from lib.imaging.formats.nifti import read_nifti
from lib.imaging.formats.nrrd import read_nrrd
from lib.imaging.formats.raster import read_raster
from lib.imaging.formats.sniff import HEAD_LENGTH, READABLE, find_format
from lib.imaging.formats.tiff import read_tiff
from lib.imaging.image import MedicalImage, UnsupportedImageError
from lib.imaging.limits import DEFAULT_LIMITS, Limits

_MEMORY, _SECONDS = 64 * 2**20, 10.0
"""For reading a header; what more is needed is claimed after that."""


def read_image(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> MedicalImage:
    """Read an image, a multi-frame image or a volume; the format is detected from the content, never from the name.

    Args:
        path: A PNG, JPEG, TIFF, BMP, DICOM, NIfTI (``.nii``, ``.nii.gz``) or NRRD file, or a folder that holds one
            DICOM series.
        limits: The largest image to read; checked against the header before anything is decoded.

    Returns:
        The image: modality values or RGB, voxel ``(i, j, k)`` at ``frames[k, j, i]``, the affine in RAS+ mm.

    Raises:
        UnsupportedImageError: Not one of these formats or variants; the message says what was found.
        CorruptImageError: Truncated, damaged or contradictory.
        ImageTooLargeError: More pixels or frames than the limits.
        MemoryBusyError: The memory that it needs is in use by other requests.
        TimeLimitError: The current clock's time has run out.
        OSError: The file itself cannot be opened. If it can, its content causes no other error than these.
    """
    if not os.path.isdir(path):
        with open(path, "rb"):  # if it cannot be opened, raise the system's own error here
            pass
    return isolated(_read, os.path.abspath(path), limits, memory=_MEMORY, seconds=_SECONDS)


def _read(path: str, limits: Limits) -> MedicalImage:
    """Read an image; runs in a worker process."""
    if os.path.isdir(path):
        return read_dicom_series(path, limits=limits)
    with open(path, "rb") as file:
        file_format, description = find_format(file.read(HEAD_LENGTH))
        file.seek(0)
        if file_format is None:
            readable = ", ".join(READABLE[:-1])
            raise UnsupportedImageError(f"found: {description}. Supported are {readable} and {READABLE[-1]}")
        if file_format == "DICOM":
            return read_dicom_file(file, limits=limits)
        if file_format == "NIfTI":
            return read_nifti(file, limits=limits)
        if file_format == "NRRD":
            return read_nrrd(path, file, limits=limits)
        if file_format == "TIFF":
            return read_tiff(file, limits=limits)
        return read_raster(file, file_format, limits=limits)

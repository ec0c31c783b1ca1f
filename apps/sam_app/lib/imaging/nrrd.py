"""NRRD volumes with the data in the same file, by SimpleITK."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

import numpy as np
import SimpleITK

from lib.imaging.guard import SizeLimits, corrupt_on_failure
from lib.imaging.image import LPS_TO_RAS, CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.raster import finite

_HEADER_LIMIT = 1024 * 1024
_DATA_ELSEWHERE = re.compile(rb"data\s*file\s*:", re.IGNORECASE)
_FIELD = re.compile(rb"^(space|space directions)\s*:(?!=)", re.IGNORECASE | re.MULTILINE)


def read_nrrd(path: str | os.PathLike[str], file: BinaryIO, *, limits: SizeLimits) -> MedicalImage:
    """Read a NRRD volume: voxel ``(i, j, k)`` becomes ``frames[k, j, i]``.

    A header that names another data file is refused: it could name any file of the server.

    Args:
        path: The file.
        file: The same file, open, at its start.
        limits: The most that is read; checked before the voxels are.

    Returns:
        The volume; its affine is the header's, brought from LPS (as ITK reads it) to RAS+. Floats become float32,
        non-finite values the smallest finite one.

    Raises:
        UnsupportedImageError: Detached data, not 2D or 3D, vectors other than 8-bit RGB.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    start = file.read(_HEADER_LIMIT)
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    if len(header) == len(start):
        raise CorruptImageError("the NRRD image has no end of header")
    if _DATA_ELSEWHERE.search(start):
        raise UnsupportedImageError("the NRRD header names another file for its data; send one file with both")
    with corrupt_on_failure("the NRRD image is truncated or damaged"):
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NrrdImageIO")
        reader.SetFileName(os.fspath(path))
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        colour = components == 3 and reader.GetPixelID() == SimpleITK.sitkVectorUInt8
        if len(size) not in (2, 3) or not (components == 1 or colour):
            raise UnsupportedImageError(
                f"the NRRD image has {len(size)} dimensions and {components} components; "
                "2D and 3D images of single numbers or 8-bit RGB are read"
            )
        columns, rows, slices = (*size, 1)[:3]
        limits.check(slices, rows, columns)
        image = reader.Execute()
        voxels = SimpleITK.GetArrayFromImage(image)
        affine = np.eye(4)
        direction = np.array(image.GetDirection()).reshape(len(size), len(size))
        affine[: len(size), : len(size)] = direction * image.GetSpacing()
        affine[: len(size), 3] = image.GetOrigin()
    if voxels.dtype.kind == "f":
        voxels = finite(voxels.astype(np.float32))
    frames = voxels if len(size) == 3 else voxels[np.newaxis]
    if not np.isfinite(affine).all():
        raise CorruptImageError("the NRRD image's geometry is not finite")
    geometric = len(_FIELD.findall(header)) > 1
    return MedicalImage(frames=frames, affine=LPS_TO_RAS @ affine, file_format="NRRD", is_geometric=geometric)

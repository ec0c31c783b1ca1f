"""Where a NIfTI image lies, as ITK and 3D Slicer place it.

ITK chooses between sform and qform by rules of its own (which codes, how similar, how orthonormal), takes the voxels'
sizes from ``pixdim`` and reads metres and micrometres as such. It is asked here, by a file of one voxel with the same
geometry, so that a label lies where Slicer shows its image.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from lib.imaging.image import LPS_TO_RAS

SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # ITK would print what it finds odd, with the file's name

_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_UNITS = {1: 1e3, 3: 1e-3}
"""Of ``xyzt_units``: metres and micrometres in mm; everything else is mm."""


def nifti_affine(header: Any) -> np.ndarray:
    """The affine that ITK has of an image with this header.

    Where ITK refuses to read (a sheared sform and no qform), the sform holds as it is: the label is sheared like the
    image, and ITK refuses both.

    Args:
        header: A NIfTI-1 or NIfTI-2 header as it was stored.

    Returns:
        ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to RAS+ mm; not finite or not invertible where the header is bad.
    """
    affine = _itk_affine(header)
    if affine is None:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _itk_affine(header: Any) -> np.ndarray | None:
    """What ITK says; None if it refuses. NIfTI-2, which it does not read, is asked about as NIfTI-1."""
    asked = nibabel.Nifti1Header()
    for key in _GEOMETRY:
        asked[key] = header[key]
    size = min(int(header["dim"][0]), 3)
    asked["dim"] = [size, 1, 1, 1, 1, 1, 1, 1]
    asked.set_data_dtype(np.uint8)
    asked["magic"], asked["vox_offset"] = b"n+1", 352
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "one.nii")
        with open(path, "wb") as file:
            file.write(asked.binaryblock + bytes(4 + 1))
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NiftiImageIO")
        reader.SetFileName(path)
        try:
            image = reader.Execute()
        except RuntimeError:
            return None
    size = image.GetDimension()
    affine = np.eye(4)
    affine[:size, :size] = np.array(image.GetDirection()).reshape(size, size) * image.GetSpacing()
    affine[:size, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine

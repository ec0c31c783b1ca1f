"""Position of NIfTI images in the patient, the same as in ITK and 3D Slicer.

ITK chooses between sform and qform by its own rules (codes, similarity, orthonormality), takes the voxel size from
``pixdim`` and converts metres and micrometres. So ITK itself reads the position, from a file of one voxel with the same
geometry, and a label lies where Slicer shows its image.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from lib.imaging.image import LPS_TO_RAS

SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # ITK's warnings would print the file's name

_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_UNITS = {1: 1e3, 3: 1e-3}
"""Metres and micrometres of ``xyzt_units`` in mm; everything else is mm."""


def nifti_affine(header: Any) -> np.ndarray:
    """Return the affine that ITK computes for an image with this header.

    If ITK refuses the header (a sheared sform and no qform), the sform is used unchanged: the label is sheared like the
    image, and ITK refuses both.

    Args:
        header: A NIfTI-1 or NIfTI-2 header as stored in the file.

    Returns:
        ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to RAS+ mm; not finite or not invertible if the header is invalid.
    """
    affine = _itk_affine(header)
    if affine is None:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _itk_affine(header: Any) -> np.ndarray | None:
    """Return ITK's affine; None if ITK refuses. NIfTI-2, which ITK does not read, is passed as NIfTI-1."""
    probe = nibabel.Nifti1Header()
    for key in _GEOMETRY:
        probe[key] = header[key]
    size = min(int(header["dim"][0]), 3)
    probe["dim"] = [size, 1, 1, 1, 1, 1, 1, 1]
    probe.set_data_dtype(np.uint8)
    probe["magic"], probe["vox_offset"] = b"n+1", 352
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "one.nii")
        with open(path, "wb") as file:
            file.write(probe.binaryblock + bytes(4 + 1))
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

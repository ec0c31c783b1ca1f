"""Images as NIfTI-1, for clients that ask for a series as one file."""

from __future__ import annotations

import os

import nibabel
import numpy as np

from lib.imaging.image import MedicalImage

_SCANNER = 1
_UNKNOWN = 0


def write_nifti(image: MedicalImage, path: str | os.PathLike[str]) -> None:
    """Write an image with the values and the affine that it has.

    A tilted gantry's shear is in the affine, which NIfTI can state as sform but not as qform. Then there is no qform:
    a program that knows no shear (ITK, so 3D Slicer, too) refuses the file and does not show it in a wrong place.

    Args:
        image: Grey or RGB.
        path: ``.nii.gz`` (gzip level 1) or ``.nii``.
    """
    frames = image.frames
    if image.is_colour:
        frames = np.ascontiguousarray(frames).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    written = nibabel.Nifti1Image(frames.T, image.affine)
    written.header.set_xyzt_units("mm")
    written.set_sform(image.affine, _SCANNER)
    if is_sheared(image.affine):
        written.set_qform(None, _UNKNOWN)
    else:
        written.set_qform(image.affine, _SCANNER)
    nibabel.save(written, path)


def is_sheared(affine: np.ndarray) -> bool:
    """Whether an affine's axes are not perpendicular: by more than one in a thousand."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)

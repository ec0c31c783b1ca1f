"""Images as NIfTI-1, for clients that ask for a series as one file."""

from __future__ import annotations

import os

import nibabel
import numpy as np

from lib.imaging.image import MedicalImage

_SCANNER = 1
_UNKNOWN = 0


def write_nifti(image: MedicalImage, path: str | os.PathLike[str]) -> None:
    """Write an image with the values that it has, where it lies.

    Args:
        image: Grey or RGB. Where no affine holds for all its frames, the file has the usual step and says that it has
            no place (qform and sform code 0).
        path: ``.nii.gz`` (gzip level 1) or ``.nii``.
    """
    affine, frames = image.affine, image.frames
    if image.is_colour:
        frames = np.ascontiguousarray(frames).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    written = nibabel.Nifti1Image(frames.T, affine)
    if image.positions is None and not image.volume_fault:
        set_place(written.header, affine)
    else:
        written.set_sform(None, _UNKNOWN)
        written.set_qform(None, _UNKNOWN)
    nibabel.save(written, path)


def is_placed(path: str | os.PathLike[str]) -> bool:
    """Whether a file of :func:`write_nifti` says where its image lies."""
    return int(nibabel.Nifti1Image.from_filename(path).header["sform_code"]) != _UNKNOWN


def set_place(header: nibabel.Nifti1Header, affine: np.ndarray) -> None:
    """Say in a header where the voxels lie, in mm, as sform and as qform.

    A tilted gantry's shear can be stated as sform but not as qform. Then there is no qform: a program that knows no
    shear (ITK, so 3D Slicer, too) refuses the file and does not show it in a wrong place.

    Args:
        header: Changed in place.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm.
    """
    header.set_xyzt_units("mm")
    header.set_sform(affine, _SCANNER)
    if is_sheared(affine):
        header.set_qform(None, _UNKNOWN)
    else:
        header.set_qform(affine, _SCANNER)


def is_sheared(affine: np.ndarray) -> bool:
    """Whether an affine's axes are not perpendicular: by more than one in a thousand."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)

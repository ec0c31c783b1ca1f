"""Writing of images as NIfTI-1, for clients that request a series as one file."""

from __future__ import annotations

import os

import nibabel
import numpy as np

from lib.imaging.image import MedicalImage

_SCANNER = 1
_UNKNOWN = 0


def write_nifti(image: MedicalImage, path: str | os.PathLike[str]) -> None:
    """Write an image as NIfTI-1 with its values and its position in the patient.

    Args:
        image: Grey or RGB. If no affine fits all its frames, the file has the usual step and states no position (qform
            and sform code 0).
        path: ``.nii.gz`` (gzip level 1) or ``.nii``.
    """
    affine, frames = image.affine, image.frames
    if image.is_colour:
        frames = np.ascontiguousarray(frames).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    written = nibabel.Nifti1Image(frames.T, affine)
    if image.positions is None and not image.volume_fault:
        set_position(written.header, affine)
    else:
        written.set_sform(None, _UNKNOWN)
        written.set_qform(None, _UNKNOWN)
    nibabel.save(written, path)


def has_position(path: str | os.PathLike[str]) -> bool:
    """Return whether a file written by :func:`write_nifti` states the image's position."""
    return int(nibabel.Nifti1Image.from_filename(path).header["sform_code"]) != _UNKNOWN


def set_position(header: nibabel.Nifti1Header, affine: np.ndarray) -> None:
    """Set the position of the voxels in a header, in mm, as sform and qform.

    A gantry tilt (shear) can be stated as sform but not as qform. Then no qform is set: a program that does not support
    shear (ITK, and so 3D Slicer) refuses the file instead of showing it at a wrong position.

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
    """Return whether an affine's axes are not perpendicular, by more than one in a thousand."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3)

"""NIfTI-1 and NIfTI-2 single files, plain or gzip-compressed, by nibabel."""

from __future__ import annotations

import gzip
import math
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from lib.imaging.guard import SizeLimits, corrupt_on_failure
from lib.imaging.image import CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.raster import finite

_DAMAGED = "the NIfTI image is truncated or damaged"
_MAX_VOXEL_OFFSET = 16 * 1024 * 1024
_RGB24 = ("R", "G", "B")


def read_nifti(file: BinaryIO, *, limits: SizeLimits) -> MedicalImage:
    """Read a NIfTI volume: voxel ``(i, j, k)`` becomes ``frames[k, j, i]``.

    Integers without scaling keep their dtype; scaled values (scl_slope, scl_inter) and floats become float32, and
    non-finite ones the smallest finite value. RGB24 becomes colour. Header extensions are not read.

    Args:
        file: The open file, at its start.
        limits: The most that is read; checked before the voxels are.

    Returns:
        The volume with the RAS+ affine of the header (sform, else qform, else its voxel sizes).

    Raises:
        UnsupportedImageError: More than one time point or component, complex voxels, RGBA voxels.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    with corrupt_on_failure(_DAMAGED):
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        header = _read_header(stream)
        shape = tuple(int(size) for size in header.get_data_shape())
        if not 0 <= float(header["vox_offset"]) <= _MAX_VOXEL_OFFSET or min(shape, default=0) < 1:
            raise CorruptImageError(_DAMAGED)
        if len(shape) < 2 or math.prod(shape[3:]) != 1:
            raise UnsupportedImageError(
                f"the NIfTI image has the shape {' x '.join(map(str, shape))}; one 2D or 3D image is read, "
                "so take one time point or component of it"
            )
        columns, rows, slices = ijk_shape = (*shape[:3], 1)[:3]
        limits.check(slices, rows, columns)
        voxels = _read_voxels(ArrayProxy(stream, header, mmap=False), header)
        voxels = voxels.reshape(*ijk_shape, *voxels.shape[len(shape) :], order="F")
        frames = np.ascontiguousarray(voxels.swapaxes(0, 2))
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise CorruptImageError("the NIfTI image's affine cannot be inverted")
    return MedicalImage(frames=frames, affine=affine, file_format="NIfTI", is_geometric=True)


def _read_header(stream: BinaryIO) -> Any:
    """The fixed part of the header, checked by nibabel."""
    start = stream.read(540)
    header_class = nibabel.Nifti2Header if start[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    return header_class(start[: header_class.template_dtype.itemsize], check=True)


def _read_voxels(proxy: ArrayProxy, header: Any) -> np.ndarray:
    """Values in file shape, or that shape + (3,) for RGB24; native byte order."""
    dtype = header.get_data_dtype()
    if dtype.names is not None:
        if dtype.names != _RGB24:
            raise UnsupportedImageError("NIfTI voxels of RGBA are not read; RGB24 and single numbers are")
        coloured = proxy.get_unscaled()
        return np.stack([coloured[name] for name in _RGB24], axis=-1)
    if dtype.kind not in "uif":
        raise UnsupportedImageError("NIfTI voxels of complex numbers are not read")
    values = np.asarray(proxy.get_unscaled(), dtype=dtype.newbyteorder("="))
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        values = values * slope + intercept
    return finite(values.astype(np.float32)) if values.dtype.kind == "f" else values

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
from lib.imaging.nifti_place import nifti_affine
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
        The volume; its affine is that of ITK, see :mod:`lib.imaging.nifti_place`.

    Raises:
        UnsupportedImageError: More than one time point or component, complex voxels, RGBA voxels.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    with corrupt_on_failure(_DAMAGED):
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        stored, header = _read_header(stream)
        shape = tuple(int(size) for size in header.get_data_shape())
        offset = _voxel_offset(stored)
        if min(shape, default=0) < 1:
            raise CorruptImageError(_DAMAGED)
        if len(shape) < 2 or math.prod(shape[3:]) != 1:
            raise UnsupportedImageError(
                f"the NIfTI image has the shape {' x '.join(map(str, shape))}; one 2D or 3D image is read, "
                "so take one time point or component of it"
            )
        columns, rows, slices = ijk_shape = (*shape[:3], 1)[:3]
        limits.check(slices, rows, columns)
        dtype = header.get_data_dtype()
        voxels = _read_voxels(ArrayProxy(stream, (shape, dtype, offset), mmap=False), dtype, _scaling(stored))
        voxels = voxels.reshape(*ijk_shape, *voxels.shape[len(shape) :], order="F")
        frames = np.ascontiguousarray(voxels.swapaxes(0, 2))
        affine = nifti_affine(stored)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(sizes) == 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise CorruptImageError("the NIfTI image's affine cannot be inverted")
    return MedicalImage(frames=frames, affine=affine, file_format="NIfTI", is_geometric=True)


def _read_header(stream: BinaryIO) -> tuple[Any, Any]:
    """The fixed part of the header as it is stored, and what it says of the voxels, checked by nibabel."""
    start = stream.read(540)
    header_class = nibabel.Nifti2Header if start[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    stored = header_class(start[: header_class.template_dtype.itemsize], check=False)
    header = header_class(endianness=stored.endianness, check=False)
    for key in ("sizeof_hdr", "dim", "datatype", "bitpix"):
        header[key] = stored[key]
    header.check_fix()
    return stored, header


def _voxel_offset(header: Any) -> int:
    """Where the voxels begin; as in ITK right after the header, if that is where its field points into."""
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_VOXEL_OFFSET:
        raise CorruptImageError(_DAMAGED)
    return max(int(offset), header.template_dtype.itemsize)


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept: none if the slope is 0 or not finite."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _read_voxels(proxy: ArrayProxy, dtype: np.dtype, scaling: tuple[float, float]) -> np.ndarray:
    """Values in file shape, or that shape + (3,) for RGB24; native byte order."""
    if dtype.names is not None:
        if dtype.names != _RGB24:
            raise UnsupportedImageError("NIfTI voxels of RGBA are not read; RGB24 and single numbers are")
        coloured = proxy.get_unscaled()
        return np.stack([coloured[name] for name in _RGB24], axis=-1)
    if dtype.kind not in "uif":
        raise UnsupportedImageError("NIfTI voxels of complex numbers are not read")
    values = np.asarray(proxy.get_unscaled(), dtype=dtype.newbyteorder("="))
    slope, intercept = scaling
    if scaling != (1.0, 0.0):
        values = values * slope + intercept
    return finite(values.astype(np.float32)) if values.dtype.kind == "f" else values

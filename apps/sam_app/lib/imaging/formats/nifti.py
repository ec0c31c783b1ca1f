"""Reading of NIfTI-1 and NIfTI-2 single files, plain or gzip-compressed, using nibabel."""

from __future__ import annotations

import gzip
import math
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np

from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.decoding.piecewise import finite
from lib.imaging.formats.nifti_position import nifti_affine
from lib.imaging.image import CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.limits import Limits

_DAMAGED = "the NIfTI image is truncated or damaged"
_MAX_VOXEL_OFFSET = 16 * 1024 * 1024
_RGB24 = ("R", "G", "B")
_PIECE = 1 << 20
"""Voxels read at a time."""
_COPIES = 4
"""Peak number of copies of the volume: two while non-finite values are replaced, then one each in the worker, in
transfer and in the server."""


def read_nifti(file: BinaryIO, *, limits: Limits) -> MedicalImage:
    """Read a NIfTI volume: voxel ``(i, j, k)`` becomes ``frames[k, j, i]``.

    Integers without scaling keep their dtype; scaled values (scl_slope, scl_inter) and floats become float32, and
    non-finite values the smallest finite one. RGB24 becomes colour. Header extensions are not read.

    Args:
        file: The open file, at its start.
        limits: Size limits; checked before the voxels are read.

    Returns:
        The volume; its affine is the one that ITK computes, see :mod:`lib.imaging.formats.nifti_position`.

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
                f"the NIfTI image has the shape {' x '.join(map(str, shape))}; only one 2D or 3D image "
                "is supported, so send one time point or component of it"
            )
        columns, rows, slices = (*shape[:3], 1)[:3]
        limits.check(slices, rows, columns)
        dtype = header.get_data_dtype()
        frames = _read_voxels(stream, offset, (slices, rows, columns), dtype, _scaling(stored))
        affine = nifti_affine(stored)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(sizes) == 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        raise CorruptImageError("the NIfTI image's affine cannot be inverted")
    return MedicalImage(frames=frames, affine=affine, file_format="NIfTI", is_geometric=True)


def _read_header(stream: BinaryIO) -> tuple[Any, Any]:
    """Read the fixed part of the header: as stored, and its voxel description as checked by nibabel."""
    start = stream.read(540)
    header_class: Any = nibabel.Nifti2Header if start[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    stored = header_class(start[: header_class.template_dtype.itemsize], check=False)
    header = header_class(endianness=stored.endianness, check=False)
    for key in ("sizeof_hdr", "dim", "datatype", "bitpix"):
        header[key] = stored[key]
    header.check_fix()
    return stored, header


def _voxel_offset(header: Any) -> int:
    """Return where the voxels begin; an offset inside the header means right after the header, as in ITK."""
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_VOXEL_OFFSET:
        raise CorruptImageError(_DAMAGED)
    return max(int(offset), int(header.template_dtype.itemsize))


def _scaling(header: Any) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 (no scaling) if the slope is 0 or not finite."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _read_voxels(
    stream: BinaryIO, offset: int, shape: tuple[int, int, int], dtype: np.dtype, scaling: tuple[float, float]
) -> np.ndarray:
    """Read the voxels piece by piece.

    Returns ``(K, rows, columns)`` in native byte order, or ``(K, rows, columns, 3)`` for RGB24.
    """
    if dtype.names is not None:
        if dtype.names != _RGB24:
            raise UnsupportedImageError("NIfTI voxels of RGBA are not supported; send RGB24 or single numbers")
        shape, dtype = (*shape, 3), np.dtype(np.uint8)  # type: ignore[assignment]
        scaling = (1.0, 0.0)
    if dtype.kind not in "uif":
        raise UnsupportedImageError("NIfTI voxels of complex numbers are not supported")
    is_float = dtype.kind == "f" or scaling != (1.0, 0.0)
    result_dtype = np.dtype(np.float32) if is_float else dtype.newbyteorder("=")
    claim(_COPIES * math.prod(shape) * result_dtype.itemsize, math.prod(shape))
    stream.seek(offset)
    voxels = np.empty(shape, result_dtype)
    flat = voxels.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        part = flat[start : start + _PIECE]
        content = stream.read(part.size * dtype.itemsize)
        if len(content) < part.size * dtype.itemsize:
            raise CorruptImageError(_DAMAGED)
        values = np.frombuffer(content, dtype)
        with np.errstate(over="ignore"):
            part[:] = _scaled(values, scaling) if is_float else values
    return finite(voxels) if is_float else voxels


def _scaled(values: np.ndarray, scaling: tuple[float, float]) -> np.ndarray:
    """Apply the scaling in float64; floats without scaling are returned unchanged."""
    slope, intercept = scaling
    return values if scaling == (1.0, 0.0) else values.astype(values.dtype.newbyteorder("=")) * slope + intercept

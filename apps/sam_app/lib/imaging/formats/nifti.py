"""Reading of NIfTI-1 and NIfTI-2 single files, plain or gzip-compressed, and writing of NIfTI-1, using nibabel."""

import gzip
import math
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
import SimpleITK

from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.decoding.piecewise import finite
from lib.imaging.formats.sniff import HEAD_LENGTH, find_format
from lib.imaging.image import LPS_TO_RAS, CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.limits import Limits

_DAMAGED = "the NIfTI image is truncated or damaged"
_UNKNOWN, _SCANNER = 0, 1
"""Codes of sform and qform."""
_START = 540
"""Bytes that hold the header of both versions."""
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
        The volume; its affine is the one that ITK computes, see :func:`nifti_affine`.

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


SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # ITK's warnings would print the file's name

_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_UNITS = {1: 1e3, 3: 1e-3}
"""Metres and micrometres of ``xyzt_units`` in mm; everything else is mm."""


def nifti_affine(header: Any) -> np.ndarray:
    """Return the affine that ITK, and so 3D Slicer, computes for an image with this header.

    ITK chooses between sform and qform by its own rules (codes, similarity, orthonormality), takes the voxel size from
    ``pixdim`` and converts metres and micrometres. So ITK itself reads the position, from a file of one voxel with the
    same geometry, and a label lies where Slicer shows its image.

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


def _parsed(start: bytes, *, check: bool) -> Any:
    """Return the header of a NIfTI-1 or NIfTI-2 file from its first bytes."""
    header_class: Any = nibabel.Nifti2Header if start[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    return header_class(start[: header_class.template_dtype.itemsize], check=check)


def _read_header(stream: BinaryIO) -> tuple[Any, Any]:
    """Read the fixed part of the header: as stored, and its voxel description as checked by nibabel."""
    stored = _parsed(stream.read(_START), check=False)
    header = type(stored)(endianness=stored.endianness, check=False)
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


def has_stated_length(path: Path) -> bool:
    """Return whether a file is a NIfTI image of at most three dimensions and as long as its header states.

    Truncation is the most common damage, and reading a folder of thousands of volumes takes too long. A gzip file ends
    with the length of its content (RFC 1952, 2.3.1: ISIZE, modulo 2^32), a truncated one does not.

    Args:
        path: Any file.

    Returns:
        False also for files that may be complete: another format, gzip of several members, a damaged header.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(HEAD_LENGTH)
        size = file.seek(0, os.SEEK_END)
        if find_format(start)[0] != "NIfTI":
            return False
        packed = start.startswith(b"\x1f\x8b")
        if packed:
            file.seek(max(0, size - 4))
            size = int.from_bytes(file.read(4), "little")
    try:
        start = zlib.decompressobj(wbits=31).decompress(start, _START) if packed else start[:_START]
        length = _stated_length(start)
    except Exception:  # a damaged header can raise any exception; the reader reports the damage
        return False
    return length is not None and (size == length % 2**32 if packed else size >= length)


def _stated_length(start: bytes) -> int | None:
    """Return the length of the whole file according to its header; None if it is not read here."""
    header = _parsed(start, check=True)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    is_plain = len(shape) >= 2 and math.prod(shape[3:]) == 1 and min(shape) > 0 and dtype.kind in "uif"
    offset = max(int(header["vox_offset"]), header.template_dtype.itemsize + 4)
    return offset + math.prod(shape) * dtype.itemsize if is_plain else None


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

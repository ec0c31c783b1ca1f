"""Writing of label volumes as files for 3D Slicer, OHIF and other programs."""

import os
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from PIL import Image

from lib.base.files import atomic_write
from lib.imaging.formats.nifti import set_position
from lib.imaging.formats.sparse_gzip import gzip_member
from lib.imaging.image import LPS_TO_RAS
from lib.imaging.labels.slice_labels import SliceLabels

LABEL_DTYPES = {
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "float32": "float",
}
"""NumPy names of the dtypes that can be written, with the NRRD names."""


def write_label_volume(
    labels_kji: np.ndarray | SliceLabels,
    affine_ras: np.ndarray,
    path: str | os.PathLike[str],
    *,
    dtype: str = "uint8",
) -> None:
    """Write a label volume to a file atomically, without syncing it to the disk.

    Args:
        labels_kji: ``(K, rows, columns)`` object numbers, voxel ``(i, j, k)`` at ``labels_kji[k, j, i]``, 0 for
            background. Slices missing in a :class:`SliceLabels` take almost no time.
        affine_ras: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm.
        path: Its suffix determines the format: ``.nrrd`` (with gzip), ``.nii.gz``, ``.nii``, or ``.png`` (8-bit grey,
            for K = 1; no geometry).
        dtype: One of :data:`LABEL_DTYPES`; PNG is always uint8.

    Raises:
        ValueError: Another suffix or dtype, labels that are not three-dimensional or do not fit into ``dtype``, or
            more than one slice for PNG.
    """
    path = Path(path)
    suffix = next((known for known in _WRITERS if path.name.lower().endswith(known)), None)
    if suffix is None:
        raise ValueError(f"a label volume is written as {', '.join(_WRITERS)}; not as {path.suffix or 'that'}")
    target = "uint8" if suffix == ".png" else dtype
    if target not in LABEL_DTYPES:
        raise ValueError(f"labels are written as {', '.join(LABEL_DTYPES)}; not as {dtype}")
    labels = labels_kji if isinstance(labels_kji, SliceLabels) else SliceLabels.of(labels_kji)
    labels = labels.cast(np.dtype(target).newbyteorder("<"))
    with atomic_write(path, durable=False) as file:
        _WRITERS[suffix](labels, np.asarray(affine_ras, dtype=np.float64), file)


def _write_nrrd(labels: SliceLabels, affine_ras: np.ndarray, file: BinaryIO) -> None:
    """Write NRRD 4 with ITK's space, fields and gzip encoding."""
    lps = LPS_TO_RAS @ affine_ras
    vectors = [f"({','.join(repr(float(value)) for value in lps[:3, column])})" for column in range(4)]
    header = [
        "NRRD0004",
        f"type: {LABEL_DTYPES[labels.dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, labels.shape[::-1]))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        *(["endian: little"] if labels.dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    file.write(("\n".join(header) + "\n\n").encode("ascii"))
    file.writelines(gzip_member(labels.pieces()))


def _write_nifti(labels: SliceLabels, affine_ras: np.ndarray, file: BinaryIO) -> None:
    """Write NIfTI-1 in millimetres."""
    file.write(_nifti_header(labels, affine_ras))
    for piece in labels.pieces():
        if isinstance(piece, int):
            file.seek(piece, os.SEEK_CUR)
        else:
            file.write(piece)
    file.truncate()  # extends the file to this position if the last slices are empty


def _write_nifti_gzip(labels: SliceLabels, affine_ras: np.ndarray, file: BinaryIO) -> None:
    """Write NIfTI-1 in millimetres, compressed."""
    file.writelines(gzip_member(chain([_nifti_header(labels, affine_ras)], labels.pieces())))


def _nifti_header(labels: SliceLabels, affine_ras: np.ndarray) -> bytes:
    """Return everything that precedes the voxels in the file."""
    without_memory = np.broadcast_to(np.zeros((), labels.dtype), labels.shape[::-1])
    header = nibabel.Nifti1Image(without_memory, affine_ras).header
    set_position(header, affine_ras)
    header.set_slope_inter(1, 0)
    file = BytesIO()
    header.as_byteswapped("<").write_to(file)
    return file.getvalue()


def _write_png(labels: SliceLabels, affine_ras: np.ndarray, file: BinaryIO) -> None:
    """Write 8-bit grey."""
    if labels.shape[0] != 1:
        raise ValueError(f"a PNG holds one slice, not {labels.shape[0]}")
    Image.fromarray(np.asarray(labels)[0]).save(file, format="PNG")


_WRITERS: dict[str, Callable[[SliceLabels, np.ndarray, BinaryIO], None]] = {
    ".nrrd": _write_nrrd,
    ".nii.gz": _write_nifti_gzip,
    ".nii": _write_nifti,
    ".png": _write_png,
}

LABEL_SUFFIXES = tuple(_WRITERS)
"""Suffixes supported by :func:`write_label_volume`."""

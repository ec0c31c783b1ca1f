"""Label volumes as files that 3D Slicer, OHIF and others read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from lib.imaging.geometry import LPS_TO_RAS

LABEL_DTYPES = {
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "float32": "float",
}
"""The dtypes that can be written, by NumPy's names, with NRRD's."""


def write_label_volume(
    labels_kji: np.ndarray,
    affine_ras: np.ndarray,
    path: str | os.PathLike[str],
    *,
    dtype: str = "uint8",
) -> None:
    """Write a label volume; the file's suffix chooses the format. Written aside, then renamed into place.

    Args:
        labels_kji: ``(K, rows, columns)`` object numbers, voxel ``(i, j, k)`` at ``labels_kji[k, j, i]``, 0 for
            background. C-contiguous is fastest: ``i`` then runs fastest in memory, as it does in the file.
        affine_ras: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm.
        path: ``.nrrd`` (gzip level 1), ``.nii.gz``, ``.nii``, or ``.png`` (8-bit grey, for K = 1; no geometry).
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
    if labels_kji.ndim != 3 or 0 in labels_kji.shape:
        raise ValueError(f"a label volume is (K, rows, columns), not {labels_kji.shape}")
    labels = np.ascontiguousarray(_cast(labels_kji, np.dtype(target)))
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _WRITERS[suffix](labels, np.asarray(affine_ras, dtype=np.float64), aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _cast(labels: np.ndarray, target: np.dtype) -> np.ndarray:
    """To ``target`` without a change of value."""
    if labels.dtype == target:
        return labels
    if not np.can_cast(labels.dtype, target) and not np.array_equal(labels, labels.astype(target)):
        raise ValueError(f"the labels do not fit into {target}")
    return labels.astype(target)


def _write_nrrd(labels: np.ndarray, affine_ras: np.ndarray, path: Path) -> None:
    """NRRD 4 with ITK's space, fields and gzip encoding."""
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
        *(["endian: little"] if labels.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    ]
    stored = labels.astype(labels.dtype.newbyteorder("<"), copy=False)
    packer = zlib.compressobj(level=1, wbits=31)
    with open(path, "wb") as file:
        file.write(("\n".join(header) + "\n\n").encode("ascii"))
        for piece in stored:  # slice by slice: no second copy of the whole volume
            file.write(packer.compress(piece))
        file.write(packer.flush())


def _write_nifti(labels: np.ndarray, affine_ras: np.ndarray, path: Path) -> None:
    """NIfTI-1 in millimetres, gzip level 1 where the suffix asks for it."""
    image = nibabel.Nifti1Image(labels.T, affine_ras)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _write_png(labels: np.ndarray, affine_ras: np.ndarray, path: Path) -> None:
    """8-bit grey."""
    if len(labels) != 1:
        raise ValueError(f"a PNG holds one slice, not {len(labels)}")
    Image.fromarray(labels[0]).save(path, format="PNG")


_WRITERS: dict[str, Callable[[np.ndarray, np.ndarray, Path], None]] = {
    ".nrrd": _write_nrrd,
    ".nii.gz": _write_nifti,
    ".nii": _write_nifti,
    ".png": _write_png,
}

LABEL_SUFFIXES = tuple(_WRITERS)
"""The suffixes that :func:`write_label_volume` knows."""

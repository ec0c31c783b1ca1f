"""NRRD as far as client and server need it: arrays as images, and label volumes with their place."""

from __future__ import annotations

import re
import zlib

import numpy as np
import numpy.typing as npt

_TYPES = {
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "float32": "float",
    "float64": "double",
}
"""NRRD's names of the types, by numpy's."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GZIP = 31
"""zlib's ``wbits`` for data with gzip's header."""


def encode(array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64] | None = None) -> bytes:
    """Return an array as a NRRD file.

    Args:
        array: ``(rows, columns)`` or ``(slices, rows, columns)``.
        affine: ``(4, 4)``, voxel ``(column, row, slice, 1)`` to millimetres, RAS+; None: no place in a patient.

    Raises:
        TypeError: If its type is not one of whole numbers up to 32 bits, float32, float64 and bool.
    """
    values = array.astype(np.uint8) if array.dtype == bool else array
    if values.dtype.name not in _TYPES:
        raise TypeError(f"an image is of whole numbers up to 32 bits, float32 or float64, not of {array.dtype}")
    place = []
    if affine is not None:
        vectors = [f"({','.join(repr(float(value)) for value in column)})" for column in (_LPS_TO_RAS @ affine)[:3].T]
        place = [
            "space: left-posterior-superior",
            f"space directions: {' '.join(vectors[:3])}",
            f"space origin: {vectors[3]}",
        ]
    header = [
        "NRRD0004",
        f"type: {_TYPES[values.dtype.name]}",
        f"dimension: {values.ndim}",
        f"sizes: {' '.join(map(str, values.shape[::-1]))}",
        *place,
        f"kinds:{' domain' * values.ndim}",
        "endian: little",
        "encoding: gzip",
    ]
    packer = zlib.compressobj(1, wbits=_GZIP)
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return "\n".join(header).encode() + b"\n\n" + packer.compress(content) + packer.flush()


def decode(content: bytes) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64]]:
    """Return a label volume of the server.

    Returns:
        ``(slices, rows, columns)``, and the affine as in :func:`encode`; without a place in the file, voxels of 1 mm.

    Raises:
        ValueError: If it is none, damaged, or of another kind than the server's.
    """
    head, _, data = content.partition(b"\n\n")
    lines = head.decode("ascii", "replace").splitlines()
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    by_name = {name: dtype for dtype, name in _TYPES.items()}
    try:
        if not head.startswith(b"NRRD") or fields["encoding"] != "gzip":
            raise ValueError
        shape = [int(size) for size in fields["sizes"].split()][::-1]
        stored = zlib.decompressobj(wbits=_GZIP)
        raw = stored.decompress(data)
        while stored.unused_data:  # the server packs parts apart
            data, stored = stored.unused_data, zlib.decompressobj(wbits=_GZIP)
            raw += stored.decompress(data)
        dtype = np.dtype(by_name[fields["type"]])
        voxels = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        affine = np.eye(4)
        if "space directions" in fields:
            texts = re.findall(r"\(([^)]*)\)", f"{fields['space directions']} {fields['space origin']}")
            affine[:3] = np.array([[float(value) for value in text.split(",")] for text in texts]).T
    except (KeyError, ValueError, zlib.error):
        raise ValueError("this is no label volume of the server, or it is damaged") from None
    return voxels, _LPS_TO_RAS @ affine if "space directions" in fields else affine

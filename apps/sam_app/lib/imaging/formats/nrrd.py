"""Reading of NRRD volumes with the data in the same file, using SimpleITK."""

import bz2
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK

from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.decoding.piecewise import finite, piecewise
from lib.imaging.image import LPS_TO_RAS, CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.limits import Limits

_MAX_HEADER_BYTES = 1024 * 1024
_FIELD = re.compile(rb"([^:]+):(?!=)\s*(.*)")
"""A field of the header; lines with ``:=`` are key-value pairs, lines that start with ``#`` comments."""
_BZIP2 = (b"bzip2", b"bz2")
_KINDS_OF_PLACE = (b"???", b"none", b"space", b"domain", b"time")
_ENCODINGS = (b"raw", b"gzip", b"gz", b"hex", b"ascii", b"text", b"txt", *_BZIP2)


def read_nrrd(path: str | os.PathLike[str], file: BinaryIO, *, limits: Limits) -> MedicalImage:
    """Read a NRRD volume: voxel ``(i, j, k)`` becomes ``frames[k, j, i]``; further axes must have length 1.

    A header that names another data file is refused, because it could name any file on the server.

    Args:
        path: The file.
        file: The same file, opened, at its start.
        limits: Size limits; checked before the voxels are read.

    Returns:
        The volume; its affine is the header's, converted from LPS (as in ITK) to RAS+. Floats become float32,
        non-finite values the smallest finite one.

    Raises:
        UnsupportedImageError: Detached data, an unknown encoding, not 2D or 3D, vectors other than 8-bit RGB.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    start = file.read(_MAX_HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", start)
    if end is None:
        raise CorruptImageError("the NRRD image has no end of header")
    header = start[: end.start()]
    fields = _fields(header)
    if b"datafile" in fields:
        raise UnsupportedImageError("the NRRD header names another file for its data; send one file with both")
    encoding = fields.get(b"encoding", b"").lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedImageError("the NRRD image has an unknown encoding; raw, gzip, bzip2, hex and ascii are known")
    with corrupt_on_failure("the NRRD image is truncated or damaged"), tempfile.TemporaryDirectory() as scratch:
        readable = _for_itk(header, fields)
        if readable != header:
            path = Path(scratch, "image.nrrd")
            path.write_bytes(readable + b"\n\n")
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("NrrdImageIO")
        reader.SetFileName(os.fspath(path))
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        colour = components == 3 and reader.GetPixelID() == SimpleITK.sitkVectorUInt8
        if len(size) < 2 or math.prod(size[3:]) != 1 or not (components == 1 or colour):
            raise UnsupportedImageError(
                f"the NRRD image has the shape {' x '.join(map(str, size))} and {components} components; only 2D "
                "and 3D images of single numbers or 8-bit RGB are supported"
            )
        columns, rows, slices = (*size, 1)[:3]
        limits.check(slices, rows, columns)
        claim(_bytes_per_value(reader.GetPixelID()) * components * math.prod(size), math.prod(size))
        if readable != header:
            file.seek(end.end())
            _append(file, Path(path), math.prod(size) * components * 8 if encoding in _BZIP2 else None)
        image = reader.Execute()
        voxels = SimpleITK.GetArrayViewFromImage(image)
        voxels = voxels.reshape(slices, rows, columns, *([3] if colour else []))
        affine, axes = np.eye(4), min(len(size), 3)
        direction = np.array(image.GetDirection()).reshape(len(size), len(size))
        affine[:axes, :axes] = (direction * image.GetSpacing())[:axes, :axes]
        affine[:axes, 3] = image.GetOrigin()[:axes]
        voxels = finite(_as_float32(voxels)) if voxels.dtype.kind == "f" else voxels.copy()
        del image
    if not np.isfinite(affine).all():
        raise CorruptImageError("the NRRD image's geometry is not finite")
    return MedicalImage(
        frames=voxels,
        affine=LPS_TO_RAS @ affine,
        file_format="NRRD",
        is_geometric={b"space", b"spacedirections"} <= fields.keys(),
    )


def _bytes_per_value(pixel_id: int) -> int:
    """Return the peak bytes per value: twice in ITK or while NaN is replaced, three times for the result."""
    stored = np.dtype(SimpleITK.GetArrayViewFromImage(SimpleITK.Image(1, 1, pixel_id)).dtype)
    return 2 * stored.itemsize + 3 * (4 if stored.kind == "f" else stored.itemsize)


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return piecewise(lambda piece: piece.astype(np.float32), values, np.empty(values.shape, np.float32))


def _fields(header: bytes) -> dict[bytes, bytes]:
    """Return the header's fields, with names in lower case and without spaces."""
    found = (_FIELD.match(line) for line in header.splitlines()[1:] if not line.startswith(b"#"))
    return {b"".join(field[1].lower().split()): field[2].strip() for field in found if field}


def _for_itk(header: bytes, fields: dict[bytes, bytes]) -> bytes:
    """Return the header in a form that ITK can read.

    ITK does not support bzip2, and uses the kind alone to decide whether an axis without a direction is one of
    components.
    """
    lines = header.splitlines()
    if fields[b"encoding"].lower() in _BZIP2:
        lines = [b"encoding: raw" if _is_field(line, b"encoding") else line for line in lines]
    directions = re.findall(rb"none|\([^)]*\)", fields.get(b"spacedirections", b""))
    kinds = fields.get(b"kinds", b"").split() or [b"???"] * len(directions)
    known = [
        b"list" if direction == b"none" and kind.lower() in _KINDS_OF_PLACE else kind
        for direction, kind in zip(directions, kinds, strict=False)
    ]
    if known != kinds[: len(known)]:
        known = [b"domain" if kind == b"???" else kind for kind in known]
        lines = [*(line for line in lines if not _is_field(line, b"kinds")), b"kinds: " + b" ".join(known)]
    return header if lines == header.splitlines() else b"\n".join(lines)


def _is_field(line: bytes, name: bytes) -> bool:
    return line.lower().startswith(name + b":") and not line.startswith(name + b":=")


def _append(file: BinaryIO, target: Path, unpacked: int | None) -> None:
    """Append the rest of a file to another one, or at most ``unpacked`` bytes of it decompressed from bzip2."""
    with target.open("ab") as output:
        if unpacked is None:
            shutil.copyfileobj(file, output)
            return
        with bz2.open(file) as packed:
            while unpacked > 0 and (piece := packed.read(min(unpacked, _MAX_HEADER_BYTES))):
                output.write(piece)
                unpacked -= len(piece)

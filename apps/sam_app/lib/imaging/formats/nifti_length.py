"""Check whether a NIfTI file is as long as its header states, without reading its voxels.

Truncation is the most common damage, and reading a folder of thousands of volumes takes too long. A gzip file ends with
the length of its content (RFC 1952, 2.3.1: ISIZE, modulo 2^32), a truncated one does not.
"""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel

from lib.imaging.formats.sniff import HEAD_LENGTH, find_format

_START = 540


def has_stated_length(path: Path) -> bool:
    """Return whether a file is a NIfTI image of at most three dimensions and as long as its header states.

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
    header_class: Any = nibabel.Nifti2Header if start[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    header = header_class(start[: header_class.template_dtype.itemsize], check=True)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    is_plain = len(shape) >= 2 and math.prod(shape[3:]) == 1 and min(shape) > 0 and dtype.kind in "uif"
    offset = max(int(header["vox_offset"]), header_class.template_dtype.itemsize + 4)
    return offset + math.prod(shape) * dtype.itemsize if is_plain else None

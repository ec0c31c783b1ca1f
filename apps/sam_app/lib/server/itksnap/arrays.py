"""Arrays as ITK-SNAP sends and reads them: gzip of the bare values, with the first axis of the image changing fastest.

What is sent is inflated piece by piece, to no more than the sizes beside it announce.
"""

from __future__ import annotations

import gzip
import math
import zlib
from typing import BinaryIO

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.formats.sparse_gzip import gzip_member
from lib.imaging.labels.slice_labels import SliceLabels
from lib.server.http.errors import ContainerError
from lib.server.interactive.drawings import Shape

_SENT = np.dtype("<f4")
_PIECE = 1 << 20
"""Values that are inflated at once."""


def inflated(file: BinaryIO, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Return an array of float32 values that was sent; the caller has reserved memory for it.

    Args:
        file: gzip of exactly as many values as the shape has, little-endian, in C order.
        shape: ``(nz, ny, nx)``.
        dtype: float32, or bool for what is not zero.

    Raises:
        ContainerError: If the file is damaged, or has more or fewer values.
        TimeLimitError: If the current clock's time is up.
    """
    values = np.empty(shape, dtype)
    flat, expected = values.reshape(-1), f"{math.prod(shape)} values of float32"
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            for start in range(0, flat.size, _PIECE):
                current_clock().check()
                target = flat[start : start + _PIECE]
                content = stream.read(target.size * _SENT.itemsize)
                if len(content) < target.size * _SENT.itemsize:
                    raise ContainerError(f"the array ends before the {expected} that its dimensions announce")
                piece = np.frombuffer(content, _SENT)
                target[:] = piece != 0 if dtype.kind == "b" else piece
            if stream.read(1):
                raise ContainerError(f"the array has more than the {expected} that its dimensions announce")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ContainerError("the array is no gzip file, or a damaged one: send it again") from None
    return values


def deflated(mask: np.ndarray) -> bytes:
    """Return a mask, ``(nz, ny, nx)`` bool, as gzip of int8 values in C order."""
    return b"".join(gzip_member(SliceLabels.of(mask.view(np.uint8)).pieces()))

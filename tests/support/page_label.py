"""A label as a page makes it: NIfTI from the facts of an image, without any library; and what comes back."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import nibabel
import numpy as np
import requests


def page_nifti(voxels: np.ndarray, affine: Sequence[Sequence[float]] | None) -> bytes:
    """NIfTI-1 of uint8 with the affine as sform alone.

    Args:
        voxels: ``(i, j, k)`` uint8.
        affine: Of the image's facts, RAS+; None where the image has no place.
    """
    matrix = np.eye(4) if affine is None else np.asarray(affine)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, 1, *np.linalg.norm(matrix[:3, :3], axis=0), 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2  # mm
    struct.pack_into("<2h", header, 252, 0, 1)  # no qform; sform
    struct.pack_into("<12f", header, 280, *matrix[:3].ravel())
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + voxels.tobytes(order="F"), mtime=0)


def some_labels(shape: Sequence[int]) -> np.ndarray:
    """``(i, j, k)`` uint8 that no mirroring, turning or shift maps onto itself."""
    labels = np.zeros(shape, np.uint8)
    i, j, k = (np.array(shape) * (0.2, 0.6, 0.7)).astype(int)
    labels[i : i + 9, j : j + 5, k] = 1
    labels[i + 2, j + 1, : k + 1] = 3
    labels[0, -1, 0] = 2
    return labels


def received(answer: httpx.Response | requests.Response) -> tuple[np.ndarray, list[Mapping[str, Any]]]:
    """The voxels ``(i, j, k)`` as they are stored, and the names."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    return np.asarray(image.dataobj), json.loads(answer.headers["SAM-Labels"])

"""Where the voxels of a series lie, by its headers alone: nothing is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom import read_dicom_headers
from lib.imaging.dicom_values import integer
from lib.imaging.geometry import affine_of, frame_planes


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """The voxels of a series, as :func:`lib.imaging.readers.read_image` has them.

    Args:
        sources: The headers, one an instance, in order of ``k``.
        shape: ``(K, rows, columns)``.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm; None where the series has no geometry.
    """

    sources: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None


def read_series_grid(path: str | os.PathLike[str]) -> SeriesGrid:
    """Read the headers of a series.

    Args:
        path: A folder that holds one series, or one DICOM file.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
    """
    sources = read_dicom_headers(path)
    counts = [integer(source, "NumberOfFrames", default=1, minimum=1) for source in sources]
    planes = [frame_planes(source, count) for source, count in zip(sources, counts, strict=True)]
    known = [plane for found in planes for plane in found or ()]
    affine, is_geometric = affine_of(known if len(known) == sum(counts) else None)
    shape = (sum(counts), integer(sources[0], "Rows"), integer(sources[0], "Columns"))
    return SeriesGrid(sources, shape, affine if is_geometric else None)

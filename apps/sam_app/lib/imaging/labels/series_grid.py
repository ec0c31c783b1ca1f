"""Voxel grid of a series, from its headers alone: no pixels are decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.header_values import integer
from lib.imaging.dicom.reader import position_of_image, read_dicom_headers


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """Voxel grid of a series, the same as that of :func:`lib.imaging.readers.read_image`.

    Args:
        sources: The headers, one per instance, in order of ``k``.
        shape: ``(K, rows, columns)``.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm; None if no affine fits all voxels: the series has no
            geometry, slices are missing or unevenly spaced, or its frames do not form a volume.
        file_affine: Affine for a file of all voxels: ``affine``, or what is known of their size.
    """

    sources: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    file_affine: np.ndarray


def read_series_grid(path: str | os.PathLike[str]) -> SeriesGrid:
    """Read the voxel grid of a series from its headers.

    Args:
        path: A folder that holds one series, or one DICOM file.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
        NotOneVolumeError: The images do not form one volume.
    """
    sources = read_dicom_headers(path)
    count = sum(integer(source, "NumberOfFrames", default=1, minimum=1) for source in sources)
    place = position_of_image(sources, count)
    is_grid = place.is_geometric and place.positions is None and not place.volume_fault
    shape = (count, integer(sources[0], "Rows"), integer(sources[0], "Columns"))
    return SeriesGrid(sources, shape, place.affine if is_grid else None, place.affine)

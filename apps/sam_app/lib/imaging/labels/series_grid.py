"""Where the voxels of a series lie, by its headers alone: nothing is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.header_values import integer
from lib.imaging.dicom.reader import place_of_image, read_dicom_headers


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """The voxels of a series, as :func:`lib.imaging.readers.read_image` has them.

    Args:
        sources: The headers, one an instance, in order of ``k``.
        shape: ``(K, rows, columns)``.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm; None where none holds for all of them: the
            series has no geometry, slices are missing or unevenly spaced, or its frames are no volume.
        file_affine: What a file of all its voxels states: ``affine``, else what is known of their size.
    """

    sources: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    file_affine: np.ndarray


def read_series_grid(path: str | os.PathLike[str]) -> SeriesGrid:
    """Read the headers of a series.

    Args:
        path: A folder that holds one series, or one DICOM file.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
        NotOneVolumeError: Images that are not one volume.
    """
    sources = read_dicom_headers(path)
    count = sum(integer(source, "NumberOfFrames", default=1, minimum=1) for source in sources)
    place = place_of_image(sources, count)
    is_grid = place.is_geometric and place.positions is None and not place.volume_fault
    shape = (count, integer(sources[0], "Rows"), integer(sources[0], "Columns"))
    return SeriesGrid(sources, shape, place.affine if is_grid else None, place.affine)

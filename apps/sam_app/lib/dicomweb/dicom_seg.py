"""Mend: MONAI Label 0.8.5 makes DICOM SEG of labels by dcmqi's program, and badly.

An empty mask is a 500; every label is coded as the same anatomical structure; names go by the place in a list, whatever
number a label has; a mask that does not lie on the series is resampled without a word; the file stays behind. Here
highdicom makes it: see :mod:`lib.imaging.labels.series_segmentation`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from fastapi.responses import FileResponse
from pydicom import Dataset

from lib.base.scratch import scratch_file
from lib.dicomweb.segment_names import algorithm_name, segment_names
from lib.imaging.dicom.data_sets import write
from lib.imaging.image import ImageError, UnsupportedImageError
from lib.imaging.labels.label_grid import labels_on_grid
from lib.imaging.labels.segments import MAX_SEGMENTS
from lib.imaging.labels.series_grid import SeriesGrid, read_series_grid
from lib.imaging.labels.series_segmentation import series_segmentation
from lib.imaging.readers import read_image
from lib.version import VERSION

_UNKNOWN_ALGORITHM = "sam-app"


def segmentation_of_labels(grid: SeriesGrid, label: Path, label_info: Any, *, model: str | None = None) -> Dataset:
    """Make a DICOM Segmentation of a label volume.

    Args:
        grid: The voxels of the series.
        label: The labels, in any format that is read, on these voxels.
        label_info: What a client calls them, see :func:`lib.dicomweb.segment_names.segment_names`.
        model: What made them, if ``label_info`` does not say.

    Returns:
        The Segmentation. Its segments are numbered from 1 in the order of the labels' numbers; labels without any voxel
        give one segment with one empty frame.

    Raises:
        ImageError: If the series cannot be referenced, or the labels do not lie on it; the message says why.
    """
    labels = labels_on_grid(read_image(label), grid.affine, grid.shape)
    marked = labels != 0
    values = np.unique(labels[marked]).tolist()
    if len(values) > MAX_SEGMENTS or any(value < 0 or value != int(value) for value in values):
        raise UnsupportedImageError(f"labels are whole numbers from 0, at most {MAX_SEGMENTS} of them besides 0")
    numbers = np.zeros(grid.shape, np.uint8)
    numbers[marked] = np.searchsorted(values, labels[marked]) + 1
    return series_segmentation(
        numbers,
        sources=grid.sources,
        segment_labels=segment_names(label_info, [int(value) for value in values]),
        algorithm_name=algorithm_name(label_info, model or _UNKNOWN_ALGORITHM),
        algorithm_version=VERSION,
        instance_time=datetime.now(),
    )


def answer_dicom_seg(series: Path, label: Path, label_info: Any, *, model: str) -> FileResponse:
    """Answer labels of a series as DICOM Segmentation, in a scratch file of the request.

    Args:
        series: The series' folder, or one DICOM file.
        label: As for :func:`segmentation_of_labels`.
        label_info: Likewise.
        model: Likewise.

    Raises:
        ImageError: As :func:`segmentation_of_labels`.
        HTTPException: 422 if the image is no DICOM.
    """
    try:
        grid = read_series_grid(series)
    except ImageError as error:
        raise HTTPException(422, "output=dicom_seg needs an image that is DICOM: a series, or a file of one") from error
    made = segmentation_of_labels(grid, label, label_info, model=model)
    path = scratch_file(".dcm")
    write(made, path)
    return FileResponse(path, media_type="application/dicom", filename="segmentation.dcm")

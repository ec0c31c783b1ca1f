"""Conversion of labels to DICOM SEG with highdicom, in place of dcmqi's program, which MONAI Label 0.8.5 runs.

There an empty mask is a 500; every label is coded as the same anatomical structure; names are assigned by position in
a list and not by the label's number; a mask that does not lie on the series is resampled silently; the temporary file
is never removed. See :mod:`lib.imaging.labels.series_segmentation`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from fastapi.responses import FileResponse
from pydicom import Dataset

from lib.base.scratch import scratch_file
from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.reader import SeriesGrid, read_series_grid
from lib.imaging.image import ImageError, UnsupportedImageError
from lib.imaging.labels.label_grid import labels_on_grid
from lib.imaging.labels.segments import MAX_SEGMENTS, segment_label
from lib.imaging.labels.series_segmentation import series_segmentation
from lib.imaging.labels.structure_set import structure_set
from lib.imaging.readers import read_image
from lib.version import VERSION

_UNKNOWN_ALGORITHM = "sam-app"


def segmentation_of_labels(
    grid: SeriesGrid, label: Path, label_info: Any, *, model: str | None = None, reviewer: str | None = None
) -> Dataset:
    """Make a DICOM Segmentation from a label volume.

    Args:
        grid: The voxel grid of the series.
        label: File with the labels, in any readable format, on this voxel grid.
        label_info: The client's names of the labels, see :func:`lib.dicomweb.dicom_seg.segment_names`.
        model: The model that made the labels, if ``label_info`` does not name it.
        reviewer: Who stored them: Content Creator's Name (0070,0084); None if that is not known.

    Returns:
        The Segmentation. Its segments are numbered from 1 in the order of the labels' numbers; an empty mask gives one
        segment with one empty frame.

    Raises:
        ImageError: If the series cannot be referenced, or the labels do not lie on it; the message gives the reason.
    """
    numbers, values = _numbered(labels_on_grid(read_image(label), grid.affine, grid.shape))
    made = series_segmentation(
        numbers,
        sources=grid.sources,
        segment_labels=segment_names(label_info, values),
        algorithm_name=algorithm_names(label_info, values, model or _UNKNOWN_ALGORITHM),
        algorithm_version=VERSION,
        instance_time=datetime.now(),
    )
    if reviewer:
        made.ContentCreatorName = segment_label(reviewer)
    return made


def structures_of_labels(grid: SeriesGrid, label: Path, label_info: Any) -> Dataset:
    """Make an RT Structure Set from a label volume; arguments and errors as of :func:`segmentation_of_labels`."""
    numbers, values = _numbered(labels_on_grid(read_image(label), grid.affine, grid.shape))
    return structure_set(
        numbers,
        sources=grid.sources,
        names=segment_names(label_info, values),
        software_version=VERSION,
        instance_time=datetime.now(),
    )


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return labels renumbered from 1 in the order of their numbers, as uint8, and those numbers.

    Raises:
        UnsupportedImageError: If they are no whole numbers, or too many.
    """
    marked = labels != 0
    values = np.unique(labels[marked])
    if len(values) > MAX_SEGMENTS or (values < 0).any() or (values != np.trunc(values)).any():
        raise UnsupportedImageError(
            f"labels must be non-negative integers, with at most {MAX_SEGMENTS} different ones besides 0"
        )
    numbers = np.zeros(labels.shape, np.uint8)
    numbers[marked] = np.searchsorted(values, labels[marked]) + 1
    return numbers, values.astype(int).tolist()


def dicom_seg_response(series: Path, label: Path, label_info: Any, *, model: str) -> FileResponse:
    """Return the response with labels of a series as DICOM Segmentation, in a scratch file of the request.

    Raises:
        ImageError: As :func:`segmentation_of_labels`.
        HTTPException: 422 if the image is not DICOM.
    """
    try:
        grid = read_series_grid(series)
    except ImageError as error:
        raise HTTPException(422, "output=dicom_seg needs a DICOM image: a series, or one DICOM file") from error
    made = segmentation_of_labels(grid, label, label_info, model=model)
    path = scratch_file(".dcm")
    write(made, path)
    return FileResponse(path, media_type="application/dicom", filename="segmentation.dcm")


def segment_names(label_info: Any, values: Sequence[int]) -> list[str]:
    """Return the names of a mask's labels.

    An item of ``label_info`` is ``{"name": …, "idx": …}``. Slicer sends ``idx``, the label's number in the mask; if no
    item has it, the items are the labels in ascending order, as in MONAI Label.

    Args:
        label_info: As the client sent it; invalid items are ignored.
        values: The labels' numbers, ascending. Empty for an empty mask.

    Returns:
        A name for each of ``values``, ``Segment <number>`` for one without a name; for an empty mask only the name of
        the first named item, the label that was requested.
    """
    items = _items(label_info)
    if not values:
        return [next(filter(None, (_text(item, "name") for item in items)), "Segment 1")]
    return [
        _text(item, "name") or f"Segment {value}" for item, value in zip(_by_value(items, values), values, strict=True)
    ]


def algorithm_names(label_info: Any, values: Sequence[int], default: str) -> list[str]:
    """Return the name of the model that made each label: its item's ``model_name``, else the first item's.

    Args:
        label_info: As of :func:`segment_names`.
        values: Likewise.
        default: The name where there is none.
    """
    items = _items(label_info)
    common = (_text(items[0], "model_name") if items else "") or default
    return [_text(item, "model_name") or common for item in _by_value(items, values)] if values else [common]


def _items(label_info: Any) -> list[Mapping[str, Any]]:
    return [item for item in label_info if isinstance(item, Mapping)] if isinstance(label_info, list) else []


def _by_value(items: Sequence[Mapping[str, Any]], values: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return the item of each value, an empty one where there is none."""
    stated = {item["idx"]: item for item in items if isinstance(item.get("idx"), int)}
    found = stated or dict(zip(values, items, strict=False))
    return [found.get(value, {}) for value in values]


def _text(item: Mapping[str, Any], key: str) -> str:
    return segment_label(str(item.get(key) or ""))

"""Segmented objects of a whole series as one DICOM Segmentation, and back: PS3.3 A.51, using highdicom."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from lib.imaging.decoding.isolation import claim, isolated
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.dicom.data_sets import read_dataset
from lib.imaging.dicom.derived import is_referable
from lib.imaging.dicom.geometry import Plane, frame_planes
from lib.imaging.dicom.header_values import frame_count, value_of
from lib.imaging.image import UnsupportedImageError
from lib.imaging.labels.segmentation import SourceFrame, compose_segmentation
from lib.imaging.labels.segments import check_segment_labels, segment_descriptions

_COMMON_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_MIN_GAP = 1e-3

_MEMORY, _SECONDS = 512 * 2**20, 30.0
"""For reading a file; most of it is for the packages that do it."""
_COPIES_OF_LABELS = 6


def series_segmentation(
    labels: np.ndarray,
    *,
    sources: Sequence[Dataset],
    segment_labels: Sequence[str],
    algorithm_name: str | Sequence[str],
    algorithm_version: str,
    instance_time: datetime,
    series_description: str = "Segmentation",
) -> Dataset:
    """Make a binary DICOM Segmentation of a series, with one segment per object.

    Each frame has the position of its source frame, from the headers alone, so that uneven gaps and a gantry tilt are
    preserved. Frames without pixels of a segment are omitted. Labels without any pixels still give a valid object that
    means "searched, but nothing found": each segment has one empty frame, on the middle slice.

    Args:
        labels: ``(K, rows, columns)`` uint8 object numbers, 0 for background; ``k`` counts the frames of ``sources``.
        sources: The headers of one series, in order of ``k``: ``datasets`` of the segmented image.
        segment_labels: The objects' names, at least one, as for :func:`lib.imaging.labels.segmentation.segmentation`.
        algorithm_name: Segment Algorithm Name (0062,0009): the model, at most 64 characters; or one for each object.
        algorithm_version: Version of the model and of the software.
        instance_time: When the segmentation was made.
        series_description: Series Description (0008,103E).

    Returns:
        A complete data set for :func:`lib.imaging.dicom.data_sets.write`. It references every instance of the series.

    Raises:
        ValueError: Labels that do not match the series in size or dtype, or an object without a name.
        UnsupportedImageError: A series that one Segmentation cannot reference: from several studies, with several sizes
            or frames of reference, without UIDs, or with several segmented slices whose positions are unknown, not
            parallel or identical.
    """
    frames = series_frames(sources)
    size = (len(frames), int(sources[0].Rows), int(sources[0].Columns))
    if labels.dtype != np.uint8 or labels.shape != size:
        raise ValueError(f"the labels must be {size} of uint8, not {labels.shape} of {labels.dtype}")
    check_segment_labels(segment_labels, labels)
    used = np.flatnonzero(labels.any(axis=(1, 2))).tolist() or [len(frames) // 2]
    segmented = [frames[k] for k in used]
    check_places(segmented)
    return compose_segmentation(
        labels[used],
        frames=segmented,
        sources=[(source, None) for source in sources],
        segments=segment_descriptions(segment_labels, algorithm_name, algorithm_version),
        software_version=algorithm_version,
        instance_time=instance_time,
        series_description=series_description,
        omit_empty_frames=bool(labels.any()),
    )


class OverlappingSegmentsError(UnsupportedImageError):
    """The segments of a Segmentation overlap, so that it is no label map."""


def labels_from_segmentation(segmentation: Dataset, sources: Sequence[Dataset], *, highest: bool = False) -> np.ndarray:
    """Return the labels of a Segmentation on the frames of the series that it was made from.

    Args:
        segmentation: A Segmentation with its pixels, made by any program.
        sources: The headers of the series, in order of ``k``.
        highest: Where segments overlap, return the highest of their numbers, instead of refusing them.

    Returns:
        ``(K, rows, columns)`` segment numbers, 0 for background.

    Raises:
        OverlappingSegmentsError: If segments overlap.
        UnsupportedImageError: If its frames do not reference the frames of the series pixel by pixel, or if it is not
            binary.
    """
    from highdicom.seg import Segmentation  # here, as it takes long to import

    frames = series_frames(sources)
    _check_references(segmentation, {str(source.SOPInstanceUID) for source in sources})
    try:
        found = Segmentation.from_dataset(segmentation)
        options: Any = {"combine_segments": True, "assert_missing_frames_are_empty": True}
        options["skip_overlap_checks"] = highest
        instances = [str(source.SOPInstanceUID) for source in sources]
        if len(sources) == len(frames):
            pixels = found.get_pixels_by_source_instance(instances, **options)
        else:
            numbers = [frame.frame + 1 for frame in frames]
            pixels = found.get_pixels_by_source_frame(instances[0], numbers, **options)
    except RuntimeError as error:
        raise OverlappingSegmentsError(
            "the Segmentation cannot be mapped to the series: its segments overlap"
        ) from error
    except (ValueError, AttributeError, KeyError) as error:
        raise UnsupportedImageError(f"the Segmentation cannot be mapped to the series: {error}") from error
    expected = (len(frames), int(sources[0].Rows), int(sources[0].Columns))
    if pixels.shape != expected:
        raise UnsupportedImageError(f"the Segmentation has frames of {pixels.shape[1:]}, the series of {expected[1:]}")
    return np.asarray(pixels)


def read_segmentation(path: Path, sources: Sequence[Dataset], *, highest: bool = False) -> np.ndarray:
    """Return the labels of a Segmentation's file, read in a worker process; see :func:`labels_from_segmentation`.

    Raises:
        ImageError: As :func:`labels_from_segmentation`, or if the file cannot be read.
    """
    return isolated(_labels_of, str(path), tuple(sources), highest, memory=_MEMORY, seconds=_SECONDS)


def _labels_of(path: str, sources: Sequence[Dataset], highest: bool) -> np.ndarray:
    size = sum(frame_count(source) for source in sources) * int(sources[0].Rows) * int(sources[0].Columns)
    claim(_COPIES_OF_LABELS * size)
    with open(path, "rb") as file:
        segmentation = read_dataset(file)
    with corrupt_on_failure("the Segmentation is damaged"):
        return labels_from_segmentation(segmentation, sources, highest=highest)


def _check_references(segmentation: Dataset, instances: set[str]) -> None:
    """Raise ``UnsupportedImageError`` unless each frame was derived from one of these instances.

    highdicom treats a frame without references as missing.
    """
    for groups in value_of(segmentation, "PerFrameFunctionalGroupsSequence") or [Dataset()]:
        derivations = value_of(groups, "DerivationImageSequence") or []
        sources = [source for item in derivations for source in value_of(item, "SourceImageSequence") or []]
        if not any(value_of(source, "ReferencedSOPInstanceUID") in instances for source in sources):
            raise UnsupportedImageError(
                "the Segmentation cannot be mapped to the series: not each of its frames references an image of it"
            )


def series_frames(sources: Sequence[Dataset]) -> list[SourceFrame]:
    """Return all frames of a series, in order of ``k``.

    Raises:
        UnsupportedImageError: If the headers do not belong to one series that can be referenced.
    """
    if not sources or not all(map(is_referable, sources)):
        raise UnsupportedImageError("an image of the series does not state its SOP class, instance, series or study")
    for keyword in _COMMON_KEYWORDS:
        if len({str(value_of(source, keyword)) for source in sources}) > 1:
            raise UnsupportedImageError(f"the images of the series differ in {keyword}")
    frames = []
    for source in sources:
        known = frame_planes(source, frame_count(source))
        planes: Sequence[Plane | None] = known or [None] * frame_count(source)
        frames += [SourceFrame(source, number, plane) for number, plane in enumerate(planes)]
    return frames


def check_places(frames: Sequence[SourceFrame]) -> None:
    """Check that one object can contain what is on all these frames.

    Raises:
        UnsupportedImageError: If they are several, and do not state places that are parallel and apart.
    """
    if len(frames) == 1:
        return
    planes = [frame.plane for frame in frames if frame.plane is not None]
    if len(planes) < len(frames) or value_of(frames[0].header, "FrameOfReferenceUID") is None:
        raise UnsupportedImageError(
            "the series states no place in the patient, so one Segmentation cannot contain several of its slices"
        )
    first = planes[0]
    axes = np.array([[plane.row_direction, plane.column_direction] for plane in planes])
    if np.abs(axes - axes[0]).max() > 1e-3:
        raise UnsupportedImageError("the slices of the series are not parallel, so they do not form a volume")
    heights = np.sort([plane.position @ first.normal for plane in planes])
    if np.diff(heights).min() < _MIN_GAP:
        raise UnsupportedImageError("several slices of the series lie at the same place, so they do not form a volume")

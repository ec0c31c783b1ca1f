"""Segmented objects of an image as a DICOM Segmentation: PS3.3 A.51, using highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from lib.imaging.dicom.derived import (
    MANUFACTURER,
    MODEL_NAME,
    copy_lossy_compression,
    copy_patient_and_study,
    is_referable,
    series_reference,
    set_instance_time,
    source_reference,
)
from lib.imaging.dicom.geometry import Plane, frame_planes, pixel_spacing
from lib.imaging.dicom.header_values import frame_count, functional_group, numbers, value_of
from lib.imaging.labels.segments import check_segment_labels, segment_descriptions

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_SERIES_NUMBER = 9002
_DEVICE_SERIAL_NUMBER = "1"
"""Required by the IOD (0018,1000)."""


class SourceFrame(NamedTuple):
    """A frame that was segmented.

    Args:
        header: Header of its instance.
        frame: Index of the frame within the instance, 0-based.
        plane: Its plane in the patient; None if unknown.
    """

    header: Dataset
    frame: int
    plane: Plane | None


def segmentation(
    labels: np.ndarray,
    *,
    source: Dataset,
    frame: int,
    segment_labels: Sequence[str],
    algorithm_name: str | Sequence[str],
    algorithm_version: str,
    instance_time: datetime,
    series_description: str = "Segmentation",
    is_automatic: bool = False,
) -> Dataset:
    """Make a binary DICOM Segmentation of one frame, with one segment per object.

    It belongs to the source's patient, study and, if the source lies in a patient coordinate system, frame of
    reference; each frame references the source instance and, if the source is multi-frame, the frame. For a source
    without position, orientation, spacing or Frame of Reference UID (ultrasound, projection X-ray, Secondary Capture)
    the Segmentation has none either and is aligned with the source pixel by pixel. If only the Slice Thickness is
    unknown, 1 mm is used. An object without pixels is stored as an empty frame, so that segment numbers are always the
    object numbers.

    Args:
        labels: Of the source's size: ``(rows, columns)`` uint8 object numbers, 0 for background; or, if objects can
            overlap, ``(rows, columns, N)`` bool, the mask of object ``n`` in channel ``n - 1``.
        source: Header of the source instance; not changed and not shared with the result.
        frame: The source's frame, 0-based.
        segment_labels: The objects' names, at least one, at most 64 characters each: ``segment_labels[n - 1]`` is that
            of object ``n``. Names that :mod:`lib.imaging.labels.anatomy_codes` knows are also coded.
        algorithm_name: Segment Algorithm Name (0062,0009): the model, at most 64 characters; or one for each object.
        algorithm_version: Version of the model and of the software.
        instance_time: When the segmentation was made.
        series_description: Series Description (0008,103E).
        is_automatic: Made without prompts (AUTOMATIC) or from a user's prompts (SEMIAUTOMATIC).

    Returns:
        A complete data set (Explicit VR Little Endian, UTF-8) for :func:`lib.imaging.dicom.data_sets.write`.

    Raises:
        ValueError: Labels that do not match the source in size or dtype, an object without a name, a frame that the
            source does not have, a source that cannot be referenced.
    """
    _check(labels, source, frame, segment_labels)
    planes = frame_planes(source, frame_count(source))
    return compose_segmentation(
        labels[np.newaxis],
        frames=[SourceFrame(source, frame, planes[frame] if planes else None)],
        sources=[(source, frame)],
        segments=segment_descriptions(segment_labels, algorithm_name, algorithm_version, is_automatic),
        software_version=algorithm_version,
        instance_time=instance_time,
        series_description=series_description,
        omit_empty_frames=False,
    )


def compose_segmentation(
    labels: np.ndarray,
    *,
    frames: Sequence[SourceFrame],
    sources: Sequence[tuple[Dataset, int | None]],
    segments: Sequence[SegmentDescription],
    software_version: str,
    instance_time: datetime,
    series_description: str,
    omit_empty_frames: bool,
) -> Dataset:
    """Make a binary Segmentation of frames of one series; the callers check that the arguments match.

    Args:
        labels: ``(N, rows, columns)`` uint8 segment numbers, 0 for background, or ``(N, rows, columns, segments)``
            bool.
        frames: The N frames that ``labels`` belong to. If there are several, each needs a position and a frame of
            reference.
        sources: The header of each instance, with its segmented frame; None for all of them.
        segments: The Segment Sequence.
        software_version: Software Versions (0018,1020).
        instance_time: When the segmentation was made.
        series_description: Series Description (0008,103E).
        omit_empty_frames: Omit frames without pixels of a segment. At least one frame must have pixels.

    Returns:
        A complete data set (Explicit VR Little Endian, UTF-8).
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues  # here, as they take long to import

    stand_ins = [_stand_in(source) for source in frames]
    source = frames[0].header
    result = Segmentation(
        source_images=stand_ins,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(prefix=None),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=software_version,
        device_serial_number=_DEVICE_SERIAL_NUMBER,
        content_label="SEGMENTATION",
        content_description=series_description[:64],
        content_creator_name=None,
        series_description=series_description,
        omit_empty_frames=omit_empty_frames,
    )
    copy_patient_and_study(source, result)
    set_instance_time(result, instance_time)
    copy_lossy_compression(source, result)
    by_stand_in = {header.SOPInstanceUID: frame for header, frame in zip(stand_ins, frames, strict=True)}
    result.SourceImageSequence = [source_reference(header, frame) for header, frame in sources]
    result.ReferencedSeriesSequence = [series_reference([header for header, _ in sources])]
    for groups in result.PerFrameFunctionalGroupsSequence:  # here highdicom has referenced the stand-ins
        for derivation in groups.DerivationImageSequence:
            header, frame, _ = by_stand_in[derivation.SourceImageSequence[0].ReferencedSOPInstanceUID]
            derivation.SourceImageSequence = [source_reference(header, frame)]
    if "FrameOfReferenceUID" not in result:
        result.PatientOrientation = ""
    return result


def _check(labels: np.ndarray, source: Dataset, frame: int, segment_labels: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the arguments of :func:`segmentation` match."""
    size = (int(source.Rows), int(source.Columns))
    are_masks = labels.dtype == np.bool_ and labels.shape == (*size, len(segment_labels))
    if not are_masks and (labels.dtype != np.uint8 or labels.shape != size):
        raise ValueError(f"the labels must be {size} of uint8, not {labels.shape} of {labels.dtype}")
    check_segment_labels(segment_labels, labels)
    if not 0 <= frame < frame_count(source):
        raise ValueError(f"the source has no frame {frame}; it has {frame_count(source)}")
    if not is_referable(source):
        raise ValueError("the source cannot be referenced: it does not state its SOP class, instance, series or study")


def _stand_in(source: SourceFrame) -> Dataset:
    """Return a single-frame header with the geometry of the source's frame, as input for highdicom.

    highdicom requires functional groups of every multi-frame source (classic ultrasound has none), accepts only one
    frame if there is no frame of reference, and refuses a CT without one. The references are corrected afterwards; the
    SOP Instance UID is new, so that the headers can be distinguished.
    """
    original, frame, plane = source
    header = Dataset()
    copy_patient_and_study(None, header)  # the real ones are set on the result, after highdicom's checks
    header.StudyInstanceUID = str(original.StudyInstanceUID)
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.SOPInstanceUID = generate_uid(prefix=None)
    header.SeriesInstanceUID = str(original.SeriesInstanceUID)
    header.Modality = str(value_of(original, "Modality") or "OT")
    header.Rows, header.Columns = int(original.Rows), int(original.Columns)
    thickness = numbers(functional_group(original, "PixelMeasuresSequence", frame), "SliceThickness")
    spacing = pixel_spacing(original, frame)
    if spacing:
        header.PixelSpacing = list(spacing)
        header.SliceThickness = thickness[0] if thickness and thickness[0] > 0 else 1.0
    frame_of_reference = value_of(original, "FrameOfReferenceUID")
    if plane is not None and frame_of_reference is not None:
        header.FrameOfReferenceUID = str(frame_of_reference)
        header.PositionReferenceIndicator = value_of(original, "PositionReferenceIndicator") or ""
        header.ImagePositionPatient = [float(value) for value in plane.position]
        header.ImageOrientationPatient = [float(value) for value in (*plane.row_direction, *plane.column_direction)]
    return header

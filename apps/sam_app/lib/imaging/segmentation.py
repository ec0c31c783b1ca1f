"""Objects found in one image as a DICOM Segmentation: PS3.3 A.51, by highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import highdicom
import numpy as np
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from lib.imaging.anatomy_codes import SegmentedProperty, property_of
from lib.imaging.derived import (
    MANUFACTURER,
    MODEL_NAME,
    copy_lossy_compression,
    copy_patient_and_study,
    instance_reference,
    is_referable,
    set_instance_time,
    source_reference,
)
from lib.imaging.dicom_values import functional_group, numbers, value_of
from lib.imaging.geometry import Plane, frame_planes
from lib.imaging.palette import PALETTE, dicom_cielab

_ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")


def segmentation(
    labels: np.ndarray,
    *,
    source: Dataset,
    frame: int,
    segment_labels: Sequence[str],
    algorithm_name: str,
    algorithm_version: str,
    instance_time: datetime,
    series_description: str = "Segmentation",
    series_number: int = 9002,
    is_automatic: bool = False,
    device_serial_number: str = "1",
) -> Dataset:
    """Make a binary Segmentation with one segment per object.

    It belongs to the source's patient, study and, if the source lies in a patient coordinate system, its frame of
    reference; each frame references the source instance and, of a multi-frame source, the frame. A source without
    position, orientation, spacing or Frame of Reference UID (ultrasound, projection X-ray, Secondary Capture) gives
    a Segmentation without them, aligned with the source pixel by pixel. Where only the Slice Thickness is unknown,
    it is 1 mm, as in :func:`lib.imaging.geometry.affine_of`. An object without pixels is kept as an empty frame, so
    that segment numbers are always the object numbers.

    Args:
        labels: ``(rows, columns)`` uint8 object numbers, 0 for background, of the source's size.
        source: Header of the source instance; not changed and not shared with the result.
        frame: The source's frame, 0-based.
        segment_labels: The objects' names, at most 64 characters each: ``segment_labels[n - 1]`` is that of object
            ``n``. One at least. What they name is coded, too, if :mod:`lib.imaging.anatomy_codes` knows it.
        algorithm_name: Segment Algorithm Name (0062,0009): the model, at most 64 characters.
        algorithm_version: Its version, and that of the software.
        instance_time: When the segmentation was made.
        series_description: Series Description (0008,103E).
        series_number: Series Number (0020,0011).
        is_automatic: Made without prompts (AUTOMATIC) or from a user's prompts (SEMIAUTOMATIC).
        device_serial_number: Device Serial Number (0018,1000), which the IOD demands.

    Returns:
        A complete data set (Explicit VR Little Endian, UTF-8) for :func:`lib.imaging.dicom_io.write`.

    Raises:
        ValueError: Labels of another size or dtype than the source asks for, an object without a name, a frame that
            the source does not have, a source that cannot be referenced.
    """
    _check(labels, source, frame, segment_labels)
    planes = frame_planes(source, _frame_count(source))
    objects = np.arange(1, len(segment_labels) + 1, dtype=np.uint8)
    result = Segmentation(
        source_images=[_stand_in(source, frame, planes[frame] if planes else None)],
        pixel_array=(labels[np.newaxis, :, :, np.newaxis] == objects),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(segment_labels, algorithm_name, algorithm_version, is_automatic),
        series_instance_uid=generate_uid(prefix=None),
        series_number=series_number,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=algorithm_version,
        device_serial_number=device_serial_number,
        content_label="SEGMENTATION",
        content_description=series_description[:64],
        content_creator_name=None,
        series_description=series_description,
        omit_empty_frames=False,
    )
    copy_patient_and_study(source, result)
    set_instance_time(result, instance_time)
    copy_lossy_compression(source, result)
    _reference(result, source, frame)
    if "FrameOfReferenceUID" not in result:
        result.PatientOrientation = ""
    return result


def _check(labels: np.ndarray, source: Dataset, frame: int, segment_labels: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the arguments fit each other."""
    size = (int(source.Rows), int(source.Columns))
    if labels.dtype != np.uint8 or labels.shape != size:
        raise ValueError(f"the labels must be {size} of uint8, not {labels.shape} of {labels.dtype}")
    if not 1 <= len(segment_labels) <= 255 or labels.max() > len(segment_labels):
        raise ValueError(f"there are objects up to {labels.max()}, but {len(segment_labels)} names")
    if not all(0 < len(label) <= 64 and label.isprintable() and "\\" not in label for label in segment_labels):
        raise ValueError("a segment's label has 1 to 64 characters, no backslash and nothing that is not printed")
    if not 0 <= frame < _frame_count(source):
        raise ValueError(f"the source has no frame {frame}; it has {_frame_count(source)}")
    if not is_referable(source):
        raise ValueError("the source states no SOP class, SOP instance, series or study, so it cannot be referenced")


def _frame_count(source: Dataset) -> int:
    """How many frames the source has."""
    return int(value_of(source, "NumberOfFrames") or 1)


def _stand_in(source: Dataset, frame: int, plane: Plane | None) -> Dataset:
    """A single-frame header at the place of the source's frame, for highdicom to derive geometry from.

    highdicom wants functional groups of every multi-frame source (classic ultrasound has none), takes one frame only
    where there is no frame of reference, and refuses a CT that lacks one. The references are put right afterwards.
    """
    header = Dataset()
    copy_patient_and_study(None, header)  # the real ones are set on the result, beyond highdicom's own checks
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.SOPInstanceUID = str(source.SOPInstanceUID)
    header.SeriesInstanceUID = str(source.SeriesInstanceUID)
    header.Modality = str(value_of(source, "Modality") or "OT")
    header.Rows, header.Columns = int(source.Rows), int(source.Columns)
    measures = functional_group(source, "PixelMeasuresSequence", frame)
    spacing, thickness = numbers(measures, "PixelSpacing"), numbers(measures, "SliceThickness")
    if len(spacing) == 2 and min(spacing) > 0:
        header.PixelSpacing = list(spacing)
        header.SliceThickness = thickness[0] if thickness and thickness[0] > 0 else 1.0
    frame_of_reference = value_of(source, "FrameOfReferenceUID")
    if plane is not None and frame_of_reference is not None:
        header.FrameOfReferenceUID = str(frame_of_reference)
        header.PositionReferenceIndicator = value_of(source, "PositionReferenceIndicator") or ""
        header.ImagePositionPatient = [float(value) for value in plane.position]
        header.ImageOrientationPatient = [float(value) for value in (*plane.row_direction, *plane.column_direction)]
    return header


def _reference(result: Dataset, source: Dataset, frame: int) -> None:
    """Let the Segmentation reference the source itself: its class and, of several, its frame."""
    result.SourceImageSequence = [source_reference(source, frame)]
    series = Dataset()
    series.SeriesInstanceUID = str(source.SeriesInstanceUID)
    series.ReferencedInstanceSequence = [instance_reference(source)]
    result.ReferencedSeriesSequence = [series]
    for groups in result.PerFrameFunctionalGroupsSequence:
        for derivation in groups.DerivationImageSequence:
            derivation.SourceImageSequence = [source_reference(source, frame)]


def _descriptions(
    segment_labels: Sequence[str], algorithm_name: str, algorithm_version: str, is_automatic: bool
) -> list[SegmentDescription]:
    """One Segment Sequence item per object, in the colour of the views, coded by what its label names."""
    kind = SegmentAlgorithmTypeValues.AUTOMATIC if is_automatic else SegmentAlgorithmTypeValues.SEMIAUTOMATIC
    descriptions = []
    for number, label in enumerate(segment_labels, start=1):
        found = property_of(label)
        description = SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=found.category,
            segmented_property_type=found.kind,
            algorithm_type=kind,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=algorithm_name,
                family=CodedConcept(*_ARTIFICIAL_INTELLIGENCE),
                version=algorithm_version,
            ),
            anatomic_regions=[found.region] if found.region else None,
        )
        _add_side(description, found)
        description.RecommendedDisplayCIELabValue = dicom_cielab(PALETTE[number])
        descriptions.append(description)
    return descriptions


def _add_side(description: Dataset, found: SegmentedProperty) -> None:
    """State left or right of the anatomic region, else of the segmented property type itself: PS3.3 C.8.20.4."""
    if found.side is None:
        return
    modifier = [CodedConcept.from_code(found.side)]
    if found.region is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifier
    else:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier

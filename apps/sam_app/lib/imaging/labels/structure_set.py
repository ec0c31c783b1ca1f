"""Segmented objects of a series as DICOM RT Structure Set: PS3.3 A.19, contours in the planes of the series' frames.

Written here and not by rt-utils, which needs OpenCV for the contours alone.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

from lib.base.clock import current_clock
from lib.imaging.dicom.derived import (
    MANUFACTURER,
    MODEL_NAME,
    copy_patient_and_study,
    instance_reference,
    set_instance_time,
)
from lib.imaging.dicom.geometry import Plane
from lib.imaging.dicom.header_values import frame_count, value_of
from lib.imaging.image import UnsupportedImageError
from lib.imaging.labels.segmentation import SourceFrame
from lib.imaging.labels.segments import check_segment_labels
from lib.imaging.labels.series_segmentation import check_places, series_frames
from lib.imaging.palette import PALETTE

_SERIES_NUMBER = 9003
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, which Referenced SOP Class UID of the study has by custom (PS3.3 C.8.8.5)."""


def structure_set(
    labels: np.ndarray,
    *,
    sources: Sequence[Dataset],
    names: Sequence[str],
    software_version: str,
    instance_time: datetime,
) -> Dataset:
    """Make an RT Structure Set of a series, with one ROI per object.

    Args:
        labels: ``(K, rows, columns)`` uint8 object numbers, 0 for background; ``k`` counts the frames of ``sources``.
        sources: The headers of one series, in order of ``k``.
        names: ``names[n - 1]`` is the name of object ``n``.
        software_version: Of this app.
        instance_time: When the structures were drawn; local time.

    Returns:
        A complete data set for :func:`lib.imaging.dicom.data_sets.write`. Contours go along the edges between pixels of
        the object and others; a hole is joined to the contour around it by a line there and back (PS3.3 C.8.8.6.3).

    Raises:
        ValueError: Labels that do not match the series in size or dtype, or an object without a name.
        UnsupportedImageError: As :func:`~lib.imaging.labels.series_segmentation.series_segmentation`; also if a frame
            states no place in the patient.
    """
    frames = series_frames(sources)
    if labels.dtype != np.uint8 or labels.shape != (len(frames), int(sources[0].Rows), int(sources[0].Columns)):
        raise ValueError(f"the labels are {labels.shape} of {labels.dtype}, not those of the series")
    check_segment_labels(names, labels)
    check_places(frames)
    reference = value_of(sources[0], "FrameOfReferenceUID")
    if reference is None or any(frame.plane is None for frame in frames):
        raise UnsupportedImageError("the series states no place in the patient, which contours need")

    result = Dataset()
    copy_patient_and_study(sources[0], result)
    result.SOPClassUID = RTStructureSetStorage
    result.SOPInstanceUID = generate_uid(prefix=None)
    result.SeriesInstanceUID = generate_uid(prefix=None)
    result.SeriesNumber = _SERIES_NUMBER
    result.SeriesDescription = "Structure set"
    result.Modality = "RTSTRUCT"
    result.OperatorsName = ""
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = MODEL_NAME
    result.SoftwareVersions = software_version
    result.FrameOfReferenceUID = str(reference)
    result.PositionReferenceIndicator = ""
    set_instance_time(result, instance_time)
    result.InstanceNumber = 1
    result.StructureSetLabel = "SAM"
    result.StructureSetDate, result.StructureSetTime = result.ContentDate, result.ContentTime
    del result.ContentDate, result.ContentTime  # of images
    result.ApprovalStatus = "UNAPPROVED"
    result.ReferencedFrameOfReferenceSequence = [_frame_of_reference(sources, str(reference))]
    result.StructureSetROISequence, result.ROIContourSequence, result.RTROIObservationsSequence = [], [], []
    for number, name in enumerate(names, start=1):
        current_clock().check()
        _add_object(result, number, name, _contours(labels == number, frames))
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return result


def _frame_of_reference(sources: Sequence[Dataset], uid: str) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = str(sources[0].SeriesInstanceUID)
    series.ContourImageSequence = [instance_reference(source) for source in sources]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = str(sources[0].StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    item = Dataset()
    item.FrameOfReferenceUID = uid
    item.RTReferencedStudySequence = [study]
    return item


def _add_object(result: Dataset, number: int, name: str, contours: Iterator[Dataset]) -> None:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = result.FrameOfReferenceUID
    roi.ROIName = name
    roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
    result.StructureSetROISequence.append(roi)
    drawn = Dataset()
    drawn.ROIDisplayColor = PALETTE[number].tolist()
    drawn.ReferencedROINumber = number
    if items := list(contours):
        drawn.ContourSequence = items
    result.ROIContourSequence.append(drawn)
    observed = Dataset()
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType = ""
    observed.ROIInterpreter = ""
    result.RTROIObservationsSequence.append(observed)


def _contours(mask: np.ndarray, frames: Sequence[SourceFrame]) -> Iterator[Dataset]:
    for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        frame = frames[k]
        assert frame.plane is not None  # checked before
        image = instance_reference(frame.header)
        if frame_count(frame.header) > 1:
            image.ReferencedFrameNumber = frame.frame + 1
        for polygon in polygons(mask[k]):
            item = Dataset()
            item.ContourImageSequence = [image]
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(polygon)
            item.ContourData = [f"{value:.4f}" for value in _in_patient(polygon, frame.plane).ravel()]
            yield item


def _in_patient(polygon: np.ndarray, plane: Plane) -> np.ndarray:
    """Return ``(n, 3)`` mm (LPS) of ``(n, 2)`` columns and rows."""
    across = polygon[:, :1] * plane.column_spacing * plane.row_direction
    down = polygon[:, 1:] * plane.row_spacing * plane.column_direction
    return np.asarray(plane.position + across + down)


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask's pieces, each with its holes joined to it.

    Args:
        mask: ``(rows, columns)`` bool.

    Returns:
        For each piece, connected over edges, ``(n, 2)`` columns and rows of the corners: integers are the centres of
        pixels. The centre of each of the mask's pixels is inside, that of every other one outside.
    """
    from skimage.measure import find_contours  # here, as it takes long to import

    pieces, count = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        piece = np.pad(pieces[box] == number, 1).astype(np.float32)
        loops = [loop[:-1] for loop in find_contours(piece, 0.5, fully_connected="low")]
        loops.sort(key=_area, reverse=True)  # the outline is around all its holes
        joined = loops[0]
        for hole in loops[1:]:
            joined = _joined(joined, hole)
        offset = [box[0].start - 1, box[1].start - 1]
        found.append((_corners(joined) + offset)[:, ::-1])
    assert len(found) == count
    return found


def _area(loop: np.ndarray) -> float:
    (y, x), (next_y, next_x) = loop.T, np.roll(loop, -1, axis=0).T
    return abs(float((x * next_y - next_x * y).sum()))


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the outline that goes to the hole where it is nearest, around it, and back the same way."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(axis=2)
    at, there = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.roll(hole, -int(there), axis=0)
    return np.concatenate([outline[: at + 1], around, around[:1], outline[at:]])


def _corners(loop: np.ndarray) -> np.ndarray:
    """Return a closed line without the points at which it goes straight on."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    is_back = (before * after).sum(axis=1) < 0
    return np.asarray(loop[(turns != 0) | is_back])

"""Attributes that every DICOM object derived here shares with its source: patient, study and references."""

import copy
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, generate_uid

from lib.imaging.dicom.header_values import frame_count, numbers, value_of

MANUFACTURER = "sam-app"
MODEL_NAME = "sam-app"

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2 in the Patient (PS3.3 C.7.1.1) and General Study (C.7.2.1) modules: always present, possibly empty."""

_OPTIONAL = (
    # Patient module
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthTime",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "QualityControlSubject",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Clinical Trial Subject and Study modules
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    # General Study and Patient Study modules
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSexNeutered",
)

_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
}

_VALID = {
    "DA": re.compile(r"\d{8}"),
    "TM": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
}


def copy_patient_and_study(source: Dataset | None, target: Dataset) -> None:
    """Copy the patient and study attributes of ``source`` to ``target``, encoded as UTF-8.

    Values are copied deeply, so that the two share no state. Dates, times and a sex that the standard does not allow
    become empty, invalid numbers are skipped, everything else is copied unchanged. Without a source no values are
    invented: required attributes are empty and the study is new.

    Args:
        source: A header of the patient's study; None for an image that has none.
        target: Changed in place; its Specific Character Set becomes UTF-8 (PS3.3 C.12.1.1.2).
    """
    target.SpecificCharacterSet = "ISO_IR 192"
    source = source if source is not None else Dataset()
    target.StudyInstanceUID = value_of(source, "StudyInstanceUID") or generate_uid(prefix=None)
    for keyword in _REQUIRED:
        setattr(target, keyword, _copied(source, keyword) or "")
    for keyword in _OPTIONAL:
        value = _copied(source, keyword)
        if value is not None:
            with suppress(ValueError, TypeError, ArithmeticError):  # text instead of a number, e.g. "70,5"
                setattr(target, keyword, value)
    if target.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethodCodeSequence" not in target:
        target.DeidentificationMethod = target.get("DeidentificationMethod") or "not stated by the source"
    if target.PatientSex not in ("", "M", "F", "O"):
        target.PatientSex = ""


def set_instance_time(dataset: Dataset, instance_time: datetime) -> None:
    """Set when the series, its content and the instance were created.

    Args:
        dataset: Changed in place.
        instance_time: Local time. Timezone Offset From UTC (0008,0201) is not written, because it would also apply to
            the study's times, which come from the source.
    """
    date, time = instance_time.strftime("%Y%m%d"), instance_time.strftime("%H%M%S.%f")
    for what in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{what}Date", date)
        setattr(dataset, f"{what}Time", time)


def source_reference(source: Dataset, frame: int | None) -> Dataset:
    """Return a reference to the instance, and the frame if it has several, that an object was derived from.

    Args:
        source: A header.
        frame: 0-based; None for all of them.

    Returns:
        An item of Source Image Sequence (0008,2112), PS3.3 C.7.6.1: purpose "source image for image processing
        operation", spatial locations preserved.
    """
    item = instance_reference(source)
    if frame is not None and frame_count(source) > 1:
        item.ReferencedFrameNumber = frame + 1
    purpose = Dataset()
    purpose.CodeValue = "121322"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.SpatialLocationsPreserved = "YES"
    return item


def instance_reference(source: Dataset) -> Dataset:
    """Return an item with the SOP class and instance of ``source``: PS3.3 table 10-11."""
    item = Dataset()
    item.ReferencedSOPClassUID = str(source.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(source.SOPInstanceUID)
    return item


def series_reference(sources: Sequence[Dataset]) -> Dataset:
    """Return an item of Referenced Series Sequence (0008,1115) for instances of one series."""
    item = Dataset()
    item.SeriesInstanceUID = str(sources[0].SeriesInstanceUID)
    item.ReferencedInstanceSequence = [instance_reference(source) for source in sources]
    return item


def is_referable(source: Dataset) -> bool:
    """Return whether ``source`` states its SOP class, instance, series and study."""
    required = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    return all(value_of(source, key) for key in required)


def copy_lossy_compression(source: Dataset, target: Dataset) -> None:
    """Record in ``target`` that its source was compressed with loss, and how: PS3.3 C.7.6.1.1.5.

    Args:
        source: A header; if it does not state the method, that of its transfer syntax is used.
        target: Changed in place; nothing is set unless the source states lossy compression.
    """
    if value_of(source, "LossyImageCompression") != "01":
        return
    target.LossyImageCompression = "01"
    ratios = numbers(source, "LossyImageCompressionRatio")
    if ratios:
        target.LossyImageCompressionRatio = [f"{ratio:.8g}" for ratio in ratios]
    syntax = getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID")
    method = value_of(source, "LossyImageCompressionMethod") or _LOSSY_METHODS.get(syntax)
    if method is not None:
        target.LossyImageCompressionMethod = copy.deepcopy(method)


def _copied(source: Dataset, keyword: str) -> Any:
    """Return a copy of a value, independent of ``source``'s character set; None if absent, empty or undecodable."""
    value = value_of(source, keyword)
    if value is None or (not isinstance(value, (int, float)) and len(value) == 0):
        return None
    element = source[keyword]
    if element.VR in _VALID and not _VALID[element.VR].fullmatch(str(value)):
        return None
    return _recoded(element)


def _recoded(element: DataElement) -> Any:
    """Return a deep copy of an element's value.

    Items of sequences are decoded, because undecoded items would keep their old encoding.
    """
    if element.VR == "SQ":
        return DicomSequence([_recoded_item(item) for item in element.value])
    return copy.deepcopy(element.value)


def _recoded_item(item: Dataset) -> Dataset:
    """Return a decoded copy of a sequence item."""
    copied = Dataset()
    for element in item:
        copied.add_new(element.tag, element.VR, _recoded(element))
    return copied

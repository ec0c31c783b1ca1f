"""Pictures as DICOM Secondary Captures: PS3.3 A.8.1.

highdicom's ``SCImage`` is not used: it requires a Patient Orientation, which an uploaded PNG does not have, and states
the Conversion Type "Digital Interface".
"""

from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

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
from lib.imaging.dicom.geometry import pixel_spacing
from lib.imaging.dicom.header_values import value_of
from lib.imaging.image import ImageTooLargeError


def secondary_capture(
    rgb: np.ndarray,
    *,
    source: Dataset | None,
    series_description: str,
    instance_time: datetime,
    derivation: str,
    frame: int = 0,
    software_version: str = "",
    series_number: int = 9001,
) -> Dataset:
    """Make a Secondary Capture Image from a picture.

    With a source it belongs to the source's patient and study, in a new series, and references the source instance.
    Without one the patient is empty (nothing is invented) and the study is new; to add a second object to that study,
    pass the first as its ``source``. Burned In Annotation is the source's; if unknown, it is omitted, because the
    pixels may show a name. The IOD has no Frame of Reference module: only the source states the position.

    Args:
        rgb: ``(rows, columns, 3)`` uint8, the whole picture, of the source's size if there is one.
        source: Header of the instance that the picture shows; not changed and not shared with the result.
        series_description: Series Description (0008,103E), at most 64 characters.
        instance_time: When the picture was made; local time.
        derivation: Derivation Description (0008,2111): how the picture was made from the source.
        frame: The source's frame that the picture shows, 0-based.
        software_version: Software Versions (0018,1020).
        series_number: Series Number (0020,0011).

    Returns:
        A complete data set (Explicit VR Little Endian, UTF-8) for :func:`lib.imaging.dicom.data_sets.write`.

    Raises:
        ValueError: ``rgb`` has another shape or dtype, or a text is too long.
        ImageTooLargeError: A side is longer than Rows and Columns can state.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"the picture must be (rows, columns, 3) of uint8, not {rgb.shape} of {rgb.dtype}")
    if max(rgb.shape) > 65535:
        raise ImageTooLargeError(
            f"a DICOM image has sides of at most 65535 pixels, not {rgb.shape[1]} x {rgb.shape[0]}"
        )
    if len(series_description) > 64 or len(derivation) > 1024:
        raise ValueError("a series description has at most 64 characters, a derivation at most 1024")
    result = Dataset()
    copy_patient_and_study(source, result)

    result.SOPClassUID = SecondaryCaptureImageStorage
    result.SOPInstanceUID = generate_uid(prefix=None)
    result.SeriesInstanceUID = generate_uid(prefix=None)
    result.SeriesNumber = series_number
    result.SeriesDescription = series_description
    result.Modality = "OT"
    result.Laterality = ""
    set_instance_time(result, instance_time)

    # General and SC Equipment: C.7.5.1, C.8.6.1
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = MODEL_NAME
    result.ConversionType = "WSD"
    result.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    result.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
    if software_version:
        result.SoftwareVersions = software_version
        result.SecondaryCaptureDeviceSoftwareVersions = software_version

    # General Image, General Reference: C.7.6.1, C.12.4
    result.InstanceNumber = 1
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.PatientOrientation = ""
    result.DerivationDescription = derivation
    if source is not None:
        _describe_source(result, source, frame)

    # Image Pixel: C.7.6.3
    result.SamplesPerPixel = 3
    result.PhotometricInterpretation = "RGB"
    result.PlanarConfiguration = 0
    result.Rows, result.Columns = rgb.shape[:2]
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    pixels = np.ascontiguousarray(rgb).tobytes()
    result.PixelData = pixels + b"\x00" * (len(pixels) % 2)
    result["PixelData"].VR = "OB"

    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    return result


def _describe_source(result: Dataset, source: Dataset, frame: int) -> None:
    """Set the attributes that a picture inherits from its source, and its references."""
    for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
        value = value_of(source, keyword)
        if value in ("YES", "NO"):
            setattr(result, keyword, value)
    copy_lossy_compression(source, result)
    result.Laterality = str(value_of(source, "Laterality") or "")
    orientation = value_of(source, "PatientOrientation")
    if orientation is not None and len(orientation) == 2:
        result.PatientOrientation = [str(axis) for axis in orientation]
    spacing = pixel_spacing(source, frame)
    if spacing:
        result.PixelSpacing = [f"{value:.10g}" for value in spacing]
    if is_referable(source):
        result.SourceImageSequence = [source_reference(source, frame)]
        result.ReferencedSeriesSequence = [series_reference([source])]

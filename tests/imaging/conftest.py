"""Phantoms and helpers for the imaging tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from support.items import NO_PLACE, item

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def make_ct() -> Callable[..., Dataset]:
    """Return a function that makes an uncompressed CT (or other) image; keywords set attributes, None removes one."""

    def make(stored: np.ndarray, **attributes: Any) -> Dataset:
        dataset = Dataset()
        dataset.SOPClassUID = CT_IMAGE
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = "1.2.3.3", ""
        dataset.PatientName, dataset.PatientID = "Phantom^Test", "P1"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "S1"
        dataset.AccessionNumber, dataset.ReferringPhysicianName = "A1", ""
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [-10.0, 20.0, 30.0]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.25], 3
        colour = stored.ndim > 2 and stored.shape[-1] == 3
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        frames = stored.shape[: stored.ndim - 3] if colour else stored.shape[:-2]
        if frames:
            dataset.NumberOfFrames = frames[0]
        dataset.Rows, dataset.Columns = stored.shape[len(frames) : len(frames) + 2]
        dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        pixels = stored.tobytes()
        dataset.PixelData = pixels + b"\x00" * (len(pixels) % 2)
        dataset["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a data set, by default under a name without an extension."""

    def save_as(dataset: Dataset, name: str = "upload") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        return path

    return save_as


@pytest.fixture
def gradient() -> np.ndarray:
    """Return ``(5, 7)`` int16 values that state their own position: 100 x row + column."""
    return (np.arange(5)[:, None] * 100 + np.arange(7)).astype(np.int16)


MULTI_FRAME_CLASSES = {
    "enhanced CT": ("1.2.840.10008.5.1.4.1.1.2.1", "CT"),
    "enhanced MR": ("1.2.840.10008.5.1.4.1.1.4.1", "MR"),
    "multi-frame ultrasound": ("1.2.840.10008.5.1.4.1.1.3.1", "US"),
    "multi-frame capture": ("1.2.840.10008.5.1.4.1.1.7.4", "OT"),
}


@pytest.fixture
def multi_frame(make_ct: Callable[..., Dataset]) -> Callable[[str], Dataset]:
    """Return a function that makes an image of four frames of one of :data:`MULTI_FRAME_CLASSES`."""

    def make(kind: str) -> Dataset:
        sop_class, modality = MULTI_FRAME_CLASSES[kind]
        attributes: dict[str, Any] = {"SOPClassUID": sop_class, "Modality": modality, **dict.fromkeys(NO_PLACE)}
        if not kind.startswith("enhanced"):
            rgb = np.random.default_rng(4).integers(0, 256, (4, 6, 8, 3)).astype(np.uint8)
            return make_ct(rgb, **attributes, FrameOfReferenceUID=None)
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=4)],
        )
        positions = [[1.0, 2.0, 3.0 + 4 * k] for k in range(4)]
        frames = [item(PlanePositionSequence=[item(ImagePositionPatient=position)]) for position in positions]
        attributes["SharedFunctionalGroupsSequence"] = [shared]
        attributes["PerFrameFunctionalGroupsSequence"] = frames
        return make_ct(np.arange(4 * 48, dtype=np.uint16).reshape(4, 6, 8), **attributes)

    return make

"""Synthetic CT series with a landmark at a known place in the patient, for every way in which series are acquired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LANDMARK = np.array([23.7, -41.2, 118.4])
"""Where the landmark's centre is in every series: LPS, mm."""
RADIUS = 14.0
"""Of the ball around it, in mm."""
SHAPE = (20, 88, 104)
"""Slices, rows and columns of every series."""
_LANDMARK_INDEX = (61.3, 37.6, 12)
"""Column, row and slice of the landmark in the order of acquisition: off centre, so that no mirrored place is right."""

_AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
_CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


@dataclass(frozen=True)
class Acquisition:
    """How the slices of a series lie in the patient.

    Args:
        name: For people.
        row_direction: Unit vector (LPS) of increasing column.
        column_direction: Unit vector of increasing row.
        row_spacing: mm from row to row.
        column_spacing: mm from column to column.
        gap: mm from slice to slice, along the normal; negative against it.
        tilt: Degrees that the gantry is tilted: each slice is moved along the rows' direction by as much.
        reversed_files: Whether the slice that comes last in space has the first instance number and file name.
    """

    name: str
    row_direction: Sequence[float] = _AXIAL[0]
    column_direction: Sequence[float] = _AXIAL[1]
    row_spacing: float = 1.0
    column_spacing: float = 1.0
    gap: float = 3.0
    tilt: float = 0.0
    reversed_files: bool = False

    @property
    def step(self) -> np.ndarray:
        """``(3,)`` mm (LPS) from one slice to the next."""
        normal = np.cross(self.row_direction, self.column_direction)
        shear = math.tan(math.radians(self.tilt)) * abs(self.gap)
        return normal * self.gap + np.asarray(self.column_direction) * shear

    @property
    def affine(self) -> np.ndarray:
        """``(4, 4)`` column, row and slice in the order of acquisition to LPS mm."""
        affine = np.eye(4)
        affine[:3, 0] = np.asarray(self.row_direction) * self.column_spacing
        affine[:3, 1] = np.asarray(self.column_direction) * self.row_spacing
        affine[:3, 2] = self.step
        affine[:3, 3] = LANDMARK - affine[:3, :3] @ _LANDMARK_INDEX
        return affine


def _turned(axes: Sequence[Sequence[float]], degrees: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
    """Two directions, turned about z, then about x; to the 16 characters that a DS may have."""
    about_z, about_x = map(math.radians, degrees)
    z = np.array([[math.cos(about_z), -math.sin(about_z), 0], [math.sin(about_z), math.cos(about_z), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, math.cos(about_x), -math.sin(about_x)], [0, math.sin(about_x), math.cos(about_x)]])
    return tuple(tuple(round(float(value), 12) for value in x @ z @ axis) for axis in np.asarray(axes))


ACQUISITIONS = [
    Acquisition("axial"),
    Acquisition("axial, head first to feet", gap=-3.0),
    Acquisition("axial, files in reverse", reversed_files=True),
    Acquisition("axial, prone", (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    Acquisition("sagittal", *_SAGITTAL),
    Acquisition("sagittal, right to left", *_SAGITTAL, gap=-3.0),
    Acquisition("coronal", *_CORONAL),
    Acquisition("coronal, back to front", *_CORONAL, gap=-3.0, reversed_files=True),
    Acquisition("oblique", *_turned(_AXIAL, (25.0, 35.0))),
    Acquisition("double oblique sagittal", *_turned(_SAGITTAL, (-20.0, 15.0)), gap=-3.0),
    Acquisition("anisotropic", row_spacing=0.8, column_spacing=1.3, gap=6.0),
    Acquisition("anisotropic oblique", *_turned(_CORONAL, (10.0, -30.0)), row_spacing=1.2, column_spacing=0.9, gap=4.0),
]
"""What ITK's conversion of a series to NIfTI puts at its place."""

TILTED = [
    Acquisition("gantry tilted by 18 degrees", tilt=18.0),
    Acquisition("gantry tilted by -12 degrees, anisotropic", tilt=-12.0, row_spacing=0.8, gap=5.0),
]
"""What it does not."""


def voxels(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """The series in the order of acquisition.

    Returns:
        ``SHAPE`` int16 Hounsfield units: a ball of 90 HU in a body of 10 HU in air, with noise; and where the ball is.
    """
    k, j, i = np.indices(SHAPE)
    index = np.stack([i, j, k, np.ones_like(i)], axis=-1)
    distance = np.linalg.norm((index @ acquisition.affine.T)[..., :3] - LANDMARK, axis=-1)
    body = ((i - SHAPE[2] / 2) / (0.46 * SHAPE[2])) ** 2 + ((j - SHAPE[1] / 2) / (0.46 * SHAPE[1])) ** 2 <= 1
    truth = distance <= RADIUS
    noise = np.random.default_rng(5).normal(0, 6, SHAPE)
    values = np.where(truth, 90, np.where(body, 10, -1000)) + noise * body
    return values.round().astype(np.int16), truth


def write_series(folder: Path, acquisition: Acquisition) -> list[Path]:
    """Write the series as DICOM files, one a slice.

    Args:
        folder: Made if it is not there.
        acquisition: How it lies.

    Returns:
        The files, in the order of acquisition.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values, _ = voxels(acquisition)
    common = _common(acquisition)
    files = []
    for k, frame in enumerate(values):
        number = len(values) - k if acquisition.reversed_files else k + 1
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number
        position = acquisition.affine[:3, 3] + k * acquisition.step
        dataset.ImagePositionPatient = [round(float(value), 9) for value in position]
        dataset.PixelData = (frame + 1024).astype(np.uint16).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        files.append(folder / f"{number:03}.dcm")
        pydicom.dcmwrite(files[-1], dataset, enforce_file_format=True)
    return files


def _common(acquisition: Acquisition) -> Dataset:
    """What all slices of a series share."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = generate_uid(), ""
    dataset.PatientName, dataset.PatientID = "Phantom^Ball", f"P {acquisition.name}"[:64]
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "S1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "A1", ""
    dataset.Modality, dataset.SeriesNumber = "CT", 1
    dataset.SeriesDescription = acquisition.name
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [*acquisition.row_direction, *acquisition.column_direction]
    dataset.PixelSpacing = [acquisition.row_spacing, acquisition.column_spacing]
    dataset.SliceThickness = abs(acquisition.gap)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = SHAPE[1:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 350
    return dataset

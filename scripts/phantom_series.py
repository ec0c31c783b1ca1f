"""A synthetic torso as DICOM series: what a viewer can show where there is no patient's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import gaussian_filter

_MM_BLURRED = 1.2


@dataclass(frozen=True)
class Organ:
    """An ellipsoid in the patient.

    Args:
        name: One of the labels that the viewers offer, where there is one.
        centre: LPS, mm.
        radii: Along x, y and z, mm.
        ct: Hounsfield units.
        mr: Signal, of 1000.
    """

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    ct: int
    mr: int


_LONG = 1e4
ORGANS = (
    Organ("fat", (0, 0, 0), (165, 115, _LONG), -90, 820),
    Organ("muscle", (0, 0, 0), (152, 102, _LONG), 55, 300),
    Organ("cavity", (0, -12, 0), (136, 78, _LONG), -70, 640),
    Organ("bone", (0, 62, 0), (22, 20, _LONG), 320, 140),
    Organ("spinal canal", (0, 76, 0), (8, 7, _LONG), 25, 900),
    Organ("liver", (-70, -12, 8), (58, 58, 62), 110, 470),
    Organ("stomach", (48, -45, 15), (40, 26, 34), 15, 180),
    Organ("spleen", (96, 22, 12), (28, 36, 40), 125, 720),
    Organ("kidney", (-58, 42, -22), (24, 22, 46), 180, 600),
    Organ("right kidney's pelvis", (-50, 40, -22), (7, 9, 18), 10, 950),
    Organ("kidney", (60, 44, -18), (24, 22, 46), 180, 600),
    Organ("left kidney's pelvis", (52, 42, -18), (7, 9, 18), 10, 950),
    Organ("aorta", (12, 28, 0), (11, 11, _LONG), 240, 60),
    Organ("vena cava", (-16, 26, 0), (12, 9, _LONG), 150, 90),
    Organ("lesion", (-88, -22, 12), (15, 14, 15), 45, 800),
)
"""Later ones lie in front of earlier ones."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a series lie, in LPS.

    Args:
        shape: Slices, rows, columns.
        spacing: mm from slice to slice, row to row, column to column.
        row_direction: Unit vector of increasing column.
        column_direction: Unit vector of increasing row.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]

    @property
    def axes(self) -> np.ndarray:
        """``(3, 3)``: columns are the mm of one step in slice, row and column."""
        normal = np.cross(self.row_direction, self.column_direction)
        return np.stack([normal, self.column_direction, self.row_direction], axis=1) * self.spacing

    @property
    def origin(self) -> np.ndarray:
        """``(3,)`` mm of the first voxel; the middle of the grid is at 0."""
        return -self.axes @ ((np.array(self.shape) - 1) / 2)

    def index(self, point: tuple[float, float, float]) -> tuple[int, int, int]:
        """The voxel ``(i, j, k)``, which is column, row and slice, that is nearest to a point in mm."""
        k, j, i = np.rint(np.linalg.solve(self.axes, np.array(point) - self.origin)).astype(int)
        return int(i), int(j), int(k)

    def label(self, number: int) -> np.ndarray:
        """``shape`` bool: the ellipsoid of ``ORGANS[number]`` without what lies in front of it."""
        return np.asarray(self._numbers() == number + 1)

    def _numbers(self) -> np.ndarray:
        """``shape``: 0 for air, else 1 + the place in :data:`ORGANS`."""
        places = np.indices(self.shape).reshape(3, -1).T @ self.axes.T + self.origin
        numbers = np.zeros(len(places), np.uint8)
        for number, organ in enumerate(ORGANS, start=1):
            numbers[(((places - organ.centre) / organ.radii) ** 2).sum(axis=1) <= 1] = number
        return numbers.reshape(self.shape)


AXIAL = Grid((24, 256, 256), (5.0, 1.5, 1.5), (1, 0, 0), (0, 1, 0))
SAGITTAL = Grid((30, 160, 192), (6.0, 1.5, 1.5), (0, 1, 0), (0, 0, -1))


@dataclass(frozen=True)
class Series:
    """One series of the torso.

    Args:
        modality: ``CT`` or ``MR``.
        description: For people.
        grid: Where its voxels lie.
    """

    modality: str
    description: str
    grid: Grid

    @property
    def study_uid(self) -> str:
        """Always the same, so that a server that has the series already gets no second one."""
        return self._uid("study")

    @property
    def series_uid(self) -> str:
        """Always the same, as the study's."""
        return self._uid("series")

    def _uid(self, what: str) -> str:
        return str(generate_uid(entropy_srcs=["torso phantom", self.modality, self.description, what]))

    def values(self) -> np.ndarray:
        """``grid.shape`` int16: Hounsfield units for CT, signal for MR, blurred and with noise as scanners have it."""
        is_ct = self.modality == "CT"
        table = np.array([-1000 if is_ct else 0, *((organ.ct if is_ct else organ.mr) for organ in ORGANS)], np.float32)
        sharp = table[self.grid._numbers()]
        blurred = gaussian_filter(sharp, [0, *(_MM_BLURRED / step for step in self.grid.spacing[1:])])
        random = np.random.default_rng(11)
        noise = gaussian_filter(random.normal(size=sharp.shape).astype(np.float32), (0, 0.7, 0.7))
        noisy = blurred + noise / noise.std() * (8 if is_ct else 11)
        measured = np.maximum(noisy, -1024) if is_ct else np.abs(noisy)
        return np.asarray(measured.round().astype(np.int16))

    def write_nifti(self, path: Path) -> None:
        """Write it as one NIfTI file."""
        lps = np.eye(4)
        lps[:3, :3], lps[:3, 3] = self.grid.axes[:, ::-1], self.grid.origin
        nibabel.Nifti1Image(self.values().T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps).to_filename(path)

    def write(self, folder: Path) -> list[Path]:
        """Write it as DICOM, one file a slice, into a folder that is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        return [self._write_slice(folder, k, frame) for k, frame in enumerate(self.values())]

    def _write_slice(self, folder: Path, k: int, frame: np.ndarray) -> Path:
        dataset = self._header()
        dataset.SOPInstanceUID = self._uid(f"instance {k}")
        dataset.InstanceNumber = k + 1
        position = self.grid.origin + k * self.grid.axes[:, 0]
        dataset.ImagePositionPatient = [round(float(value), 6) for value in position]
        dataset.PixelData = (frame + 1024 if self.modality == "CT" else frame).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / f"{self.modality.lower()}_{k:03}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        return path

    def _header(self) -> Dataset:
        """What all slices share."""
        is_ct = self.modality == "CT"
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study_uid, self.series_uid
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = self._uid("frame of reference"), ""
        dataset.PatientName, dataset.PatientID = f"Phantom^{self.modality}", f"PHANTOM-{self.modality}"
        dataset.PatientBirthDate, dataset.PatientSex = "", ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
        dataset.StudyDescription = f"Synthetic torso, {self.modality}"
        dataset.AccessionNumber, dataset.ReferringPhysicianName, dataset.Manufacturer = "", "", ""
        dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = self.modality, 1, self.description
        dataset.AcquisitionNumber, dataset.PatientPosition, dataset.Laterality = 1, "HFS", ""
        dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
        dataset.ImageOrientationPatient = [*self.grid.row_direction, *self.grid.column_direction]
        dataset.PixelSpacing = list(self.grid.spacing[1:])
        dataset.SliceThickness = dataset.SpacingBetweenSlices = self.grid.spacing[0]
        dataset.Rows, dataset.Columns = self.grid.shape[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        if is_ct:
            dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
            dataset.KVP = None
            dataset.WindowCenter, dataset.WindowWidth = 50, 400
        else:
            dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
            dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", None
            dataset.RepetitionTime, dataset.EchoTime = 600, 12
            dataset.WindowCenter, dataset.WindowWidth = 480, 960
        return dataset


SERIES = (Series("CT", "axial", AXIAL), Series("MR", "sagittal", SAGITTAL))

SAMPLE = Series("CT", "sample", Grid((24, 128, 128), (5.0, 3.0, 3.0), (1, 0, 0), (0, 1, 0)))
"""What the page at ``/sam/`` offers to try, as the file ``torso.nii.gz`` beside it."""

"""Where the voxels of files lie in the patient (LPS, mm), by other libraries than the app's own readers."""

from __future__ import annotations

from pathlib import Path

import highdicom
import nibabel
import nrrd
import numpy as np
import pydicom
import SimpleITK
from highdicom.spatial import PixelToReferenceTransformer

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def voxel_at(folder: Path, point: np.ndarray) -> list[int]:
    """The voxel ``[i, j, k]`` of a series that a point lies in, by the headers; ``k`` in the order of ITK's reader."""
    places = []
    for k, name in enumerate(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))):
        header = pydicom.dcmread(name, stop_before_pixels=True)
        along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        offset = point - np.array(header.ImagePositionPatient, float)
        row_spacing, column_spacing = map(float, header.PixelSpacing)
        height = abs(offset @ np.cross(along_row, along_column))
        places.append((height, [offset @ along_row / column_spacing, offset @ along_column / row_spacing, k]))
    return [round(float(value)) for value in min(places)[1]]


def centroid(path: Path) -> np.ndarray:
    """``(3,)`` mean of the places of all labelled voxels of an NRRD or NIfTI file, or a DICOM Segmentation."""
    return points(path).mean(axis=0)


def points(path: Path) -> np.ndarray:
    """``(N, 3)`` places of the labelled voxels."""
    if path.suffix == ".dcm":
        return _segmentation_points(path)
    if path.suffix == ".nrrd":
        labels, header = nrrd.read(str(path))
        assert header["space"] == "left-posterior-superior"
        return np.asarray(np.argwhere(labels) @ header["space directions"] + header["space origin"])
    image = nibabel.load(path)
    ras = np.argwhere(np.asarray(image.dataobj)) @ image.affine[:3, :3].T + image.affine[:3, 3]
    return np.asarray(ras @ _RAS_TO_LPS)


def _segmentation_points(path: Path) -> np.ndarray:
    found = highdicom.seg.segread(path)
    shared = found.SharedFunctionalGroupsSequence[0]
    planes = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    places = []
    for plane, groups in zip(planes, found.PerFrameFunctionalGroupsSequence, strict=True):
        transformer = PixelToReferenceTransformer(
            image_position=groups.PlanePositionSequence[0].ImagePositionPatient,
            image_orientation=shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            pixel_spacing=shared.PixelMeasuresSequence[0].PixelSpacing,
        )
        columns_and_rows = np.argwhere(plane)[:, ::-1]
        if len(columns_and_rows):
            places.append(transformer(columns_and_rows))
    return np.concatenate(places)

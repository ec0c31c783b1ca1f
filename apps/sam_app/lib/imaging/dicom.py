"""DICOM images: one file of one or many frames, or a folder that holds one series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK
from pydicom import Dataset
from pydicom.uid import UID

from lib.imaging.dicom_io import read_dataset
from lib.imaging.dicom_pixels import PIXEL_KEYWORDS, decode_pixels
from lib.imaging.dicom_values import integer, value_of
from lib.imaging.geometry import Plane, affine_of, frame_planes
from lib.imaging.guard import SizeLimits, corrupt_on_failure
from lib.imaging.image import CorruptImageError, MedicalImage, UnsupportedImageError
from lib.imaging.modality import padding_of, to_modality_values, windows_of

_BAD_HEADER = "the DICOM image's geometry, window or padding attributes are damaged"


def read_dicom_file(file: BinaryIO, *, limits: SizeLimits) -> MedicalImage:
    """Read a DICOM image of one or more frames, in the order in which the file holds them.

    Args:
        file: The open file, at its start.
        limits: The most that is read; checked before decoding.

    Returns:
        Modality values or RGB; the windows of the middle frame (``K // 2``); one header in ``datasets``.

    Raises:
        UnsupportedImageError: No image, or a transfer syntax or colour that is not read.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    dataset = read_dataset(file)
    shape = _image_shape(dataset)
    limits.check(*shape)
    frames = _modality_frames(dataset)
    header = _without_pixels(dataset)
    with corrupt_on_failure(_BAD_HEADER):
        planes = frame_planes(header, len(frames))
        return _image(frames, [header], planes, middle=len(frames) // 2)


def read_dicom_series(folder: str | os.PathLike[str], *, limits: SizeLimits) -> MedicalImage:
    """Read the one series of single-frame images that a folder (without its subfolders) holds.

    The slices come in GDCM's order, asked through SimpleITK, so that ``(i, j, k)`` is the same voxel as in ITK, 3D
    Slicer and the NIfTI that MONAI Label makes of a series. The affine runs from the first to the last slice, so a
    gantry tilt shears it; slices that are missing or unevenly spaced are spread evenly.

    Args:
        folder: The folder. Files that are not DICOM images are ignored.
        limits: The most that is read; checked before decoding.

    Returns:
        The volume; the windows of the middle slice (``K // 2``); ``datasets`` in order of ``k``.

    Raises:
        UnsupportedImageError: No DICOM image, more than one series, or several multi-frame images.
        CorruptImageError: A damaged file, or slices of different size or kind.
        ImageTooLargeError: Larger than ``limits``.
    """
    names = _series_file_names(os.fspath(folder))
    if len(names) == 1:
        with open(names[0], "rb") as file:
            return read_dicom_file(file, limits=limits)
    shapes = {_image_shape(_header(name)) for name in names}
    if any(shape[0] > 1 for shape in shapes):
        raise UnsupportedImageError("the series has several multi-frame images; send one of them")
    if len(shapes) > 1:
        raise CorruptImageError("the slices of the DICOM series differ in size")
    rows, columns = next(iter(shapes))[1:]
    limits.check(len(names), rows, columns)

    headers: list[Dataset] = []
    volume = np.empty(0)
    for k, name in enumerate(names):
        with open(name, "rb") as file:
            dataset = read_dataset(file)
        frame = _modality_frames(dataset)[0]
        headers.append(_without_pixels(dataset))
        if k == 0:
            volume = np.empty((len(names), *frame.shape), frame.dtype)
        if frame.shape != volume.shape[1:]:
            raise CorruptImageError("the slices of the DICOM series differ in size or are grey and colour")
        volume = volume.astype(np.result_type(volume, frame), copy=False)
        volume[k] = frame
    with corrupt_on_failure(_BAD_HEADER):
        planes = [found[0] for header in headers if (found := frame_planes(header, 1))]
        return _image(volume, headers, planes if len(planes) == len(headers) else None, middle=0)


def read_dicom_headers(path: str | os.PathLike[str]) -> tuple[Dataset, ...]:
    """Read the headers of a DICOM image, nothing of it being decoded.

    Args:
        path: A file, or a folder that holds one series.

    Returns:
        What ``datasets`` of the image would be: one header an instance, in order of ``k``.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
    """
    names = _series_file_names(os.fspath(path)) if os.path.isdir(path) else [os.fspath(path)]
    headers = tuple(_header(name) for name in names)
    for header in headers:
        _image_shape(header)
    return headers


def _image(
    frames: np.ndarray, headers: Sequence[Dataset], planes: Sequence[Plane] | None, *, middle: int
) -> MedicalImage:
    """Put the parts together; the windows are of the middle header, and of its frame ``middle``."""
    header = headers[len(headers) // 2]
    affine, is_geometric = affine_of(planes)
    colour = frames.ndim == 4
    return MedicalImage(
        frames=frames,
        affine=affine,
        file_format="DICOM",
        modality=str(value_of(header, "Modality") or "") or None,
        windows=() if colour else windows_of(header, middle),
        inverted=value_of(header, "PhotometricInterpretation") == "MONOCHROME1",
        padding=None if colour else padding_of(header),
        is_geometric=is_geometric,
        datasets=tuple(headers),
    )


def _image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """``(frames, rows, columns)`` as the header states them."""
    sop_class = UID(str(value_of(dataset, "SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if "Rows" not in dataset and "Columns" not in dataset:
        what = f"of the kind {sop_class.name}" if sop_class else "that does not state its kind"
        raise UnsupportedImageError(f"the DICOM object {what} holds no image")
    return (
        integer(dataset, "NumberOfFrames", default=1, minimum=1),
        integer(dataset, "Rows", minimum=1),
        integer(dataset, "Columns", minimum=1),
    )


def _modality_frames(dataset: Dataset) -> np.ndarray:
    """``(K, rows, columns)`` modality values, or ``(K, rows, columns, 3)`` RGB."""
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise CorruptImageError("the DICOM image has no pixel data")
    values = decode_pixels(dataset)
    if values.ndim == 4:
        return values
    with corrupt_on_failure("the DICOM image's Modality LUT is damaged"):
        return to_modality_values(values, dataset)


def _without_pixels(dataset: Dataset) -> Dataset:
    """The same data set, its pixel data taken out."""
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def _header(name: str) -> Dataset:
    """A file's data set up to the pixel data."""
    with open(name, "rb") as file:
        return read_dataset(file, stop_before_pixels=True)


def _series_file_names(folder: str) -> Sequence[str]:
    """The files of the folder's one image series, in GDCM's order."""
    series = []
    if any(entry.is_file() for entry in Path(folder).iterdir()):
        with corrupt_on_failure("a DICOM file of the folder is damaged"):
            reader = SimpleITK.ImageSeriesReader
            found = [reader.GetGDCMSeriesFileNames(folder, number) for number in reader.GetGDCMSeriesIDs(folder)]
        for names in found:
            images = [name for name in names if "Rows" in _header(name)]
            if images:
                series.append(images)
    if not series:
        raise UnsupportedImageError("the folder holds no DICOM image")
    if len(series) > 1:
        raise UnsupportedImageError(f"the folder holds {len(series)} DICOM series; one is read at a time")
    return series[0]

"""The files of a folder as the images of one DICOM series, in their order."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from lib.imaging.dicom.data_sets import read_dataset
from lib.imaging.dicom.geometry import UNKNOWN_SPACING, axes_of, plane_of, position_of
from lib.imaging.dicom.header_values import integer, numbers, value_of
from lib.imaging.dicom.one_volume import PlacedFrame, why_no_place, why_no_series, why_no_volume
from lib.imaging.formats.sniff import HEAD_LENGTH, find_format
from lib.imaging.image import CorruptImageError, NotOneVolumeError, UnsupportedImageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesFile:
    """One image of a series.

    Args:
        path: Its file.
        header: Its data set up to the pixel data.
    """

    path: str
    header: Dataset


def find_series(folder: str | os.PathLike[str]) -> tuple[list[SeriesFile], tuple[str, ...]]:
    """Find the images of the one series that a folder (without its subfolders) holds.

    Slices come in the order of their places along the normal, else in that of their instance numbers, else of their
    names: as GDCM, so ITK, 3D Slicer and MONAI Label's conversion to NIfTI, have them. The same instance twice counts
    once.

    Args:
        folder: The folder. Files that are not DICOM images are ignored.

    Returns:
        The images in order of ``k``; and notes for people: what was left out.

    Raises:
        UnsupportedImageError: No DICOM image, more than one series, or several multi-frame images.
        CorruptImageError: Slices of different size, or all damaged.
        NotOneVolumeError: Images that are not one volume; the message says what was found.
    """
    images, damaged = _images(os.fspath(folder))
    if not images and damaged:
        raise CorruptImageError("the DICOM files of the folder are truncated or damaged")
    if not images:
        raise UnsupportedImageError("the folder holds no DICOM image")
    count = len({str(value_of(image.header, "SeriesInstanceUID")) for image in images})
    if count > 1:
        raise UnsupportedImageError(f"the folder holds {count} DICOM series; one is read at a time")
    single = _without_repeats(images)
    notes = []
    if damaged:
        notes.append(f"{damaged} of {damaged + len(images)} DICOM files are damaged and were left out")
    if len(single) < len(images):
        notes.append(f"{len(images) - len(single)} of {len(images)} files repeat an instance and were left out")
    for note in notes:
        logger.warning("A DICOM series was read, but %s", note)
    if len(single) > 1:
        single = _arranged(single)
    return single, tuple(notes)


def _images(folder: str) -> tuple[list[SeriesFile], int]:
    """The folder's images by name, and how many DICOM files could not be read."""
    with os.scandir(folder) as entries:
        paths = sorted(entry.path for entry in entries if entry.is_file())
    images, damaged = [], 0
    for path in paths:
        with open(path, "rb") as file:
            if find_format(file.read(HEAD_LENGTH))[0] != "DICOM":
                continue
            file.seek(0)
            try:
                header = read_dataset(file, stop_before_pixels=True)
            except CorruptImageError:
                damaged += 1
                continue
        if "Rows" in header:
            images.append(SeriesFile(path, header))
    return images, damaged


def _without_repeats(images: Sequence[SeriesFile]) -> list[SeriesFile]:
    """Each instance once.

    Raises:
        NotOneVolumeError: If files of the same SOP Instance UID differ.
    """
    known: dict[str, SeriesFile] = {}
    single = []
    for image in images:
        uid = str(value_of(image.header, "SOPInstanceUID") or image.path)
        first = known.setdefault(uid, image)
        if first is image:
            single.append(image)
        elif _whole(first) != _whole(image):
            raise NotOneVolumeError(
                "two files of the series have the same SOP Instance UID (0008,0018), but are not the same image; send "
                "the right one alone"
            )
    return single


def _whole(image: SeriesFile) -> Dataset:
    with open(image.path, "rb") as file:
        return read_dataset(file)


def _arranged(images: list[SeriesFile]) -> list[SeriesFile]:
    """Images in order of ``k``, checked to be slices of one volume as far as their places are known."""
    if any(integer(image.header, "NumberOfFrames", default=1, minimum=1) > 1 for image in images):
        raise UnsupportedImageError("the series has several multi-frame images; send one of them")
    sizes = Counter((integer(i.header, "Columns", minimum=1), integer(i.header, "Rows", minimum=1)) for i in images)
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {columns} x {rows}" for (columns, rows), count in sizes.most_common(4))
        raise CorruptImageError(f"the slices of the DICOM series differ in size: {found}; send those of one size")
    headers = [image.header for image in images]
    if fault := why_no_series(headers) or why_no_place([(header, 0) for header in headers]):
        raise NotOneVolumeError(fault)
    ordered = _in_order(images)
    planes = [plane_of(image.header, default_spacing=UNKNOWN_SPACING) for image in ordered]
    frames = [PlacedFrame(i.header, 0, plane) for i, plane in zip(ordered, planes, strict=True) if plane is not None]
    if len(frames) == len(ordered) and (fault := why_no_volume(frames)):
        raise NotOneVolumeError(fault)
    return ordered


def _in_order(images: Sequence[SeriesFile]) -> list[SeriesFile]:
    """Images by place, else by Instance Number, else as they are."""
    places = [position_of(image.header) for image in images]
    axes = axes_of(images[0].header)
    if axes is not None and all(place is not None for place in places):
        keys = [float(place @ np.cross(*axes)) for place in places if place is not None]
    else:
        keys = [number for image in images for number in numbers(image.header, "InstanceNumber")[:1]]
    if len(keys) < len(images) or len(set(keys)) == 1:
        return list(images)
    return [images[n] for n in sorted(range(len(images)), key=keys.__getitem__)]

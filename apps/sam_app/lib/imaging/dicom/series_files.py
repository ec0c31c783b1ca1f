"""Finding and sorting of the files of one DICOM series in a folder."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lib.imaging.decoding.isolation import isolated
from lib.imaging.dicom.data_sets import read_dataset
from lib.imaging.dicom.geometry import UNKNOWN_SPACING, axes_of, plane_of, position_of
from lib.imaging.dicom.header_values import integer, numbers, value_of
from lib.imaging.dicom.one_volume import FrameWithPlane, position_problem, series_problem, volume_problem
from lib.imaging.formats.sniff import HEAD_LENGTH, find_format
from lib.imaging.image import CorruptImageError, NotOneVolumeError, UnsupportedImageError

logger = logging.getLogger(__name__)

_MEMORY, _SECONDS = 256 * 2**20, 60.0
"""For the headers of a folder's files."""


@dataclass(frozen=True)
class SeriesFile:
    """One image of a series.

    Args:
        path: Path of its file.
        header: Its data set up to the pixel data.
    """

    path: str
    header: Dataset


@dataclass(frozen=True)
class FoundSeries:
    """A series of which there are images in a folder.

    Args:
        uid: Series Instance UID; empty if it is not stated.
        description: As the header has it.
        modality: Likewise, as a code.
        files: Names of its files.
    """

    uid: str
    description: str
    modality: str
    files: frozenset[str]


def series_in(folder: Path) -> list[FoundSeries]:
    """Return the series of the DICOM images in a folder (not its subfolders), by number and description.

    Other files, and those that are damaged, are passed over.

    Raises:
        OSError: If a file cannot be read.
    """
    return isolated(_series_in, str(folder), memory=_MEMORY, seconds=_SECONDS)


def _series_in(folder: str) -> list[FoundSeries]:
    """Find them; runs in a worker process."""
    of_series: dict[str, list[SeriesFile]] = {}
    for image in _images(folder)[0]:
        of_series.setdefault(str(value_of(image.header, "SeriesInstanceUID") or ""), []).append(image)
    found = []
    for uid, images in of_series.items():
        header, files = images[0].header, frozenset(os.path.basename(image.path) for image in images)
        description, modality = (str(value_of(header, key) or "") for key in ("SeriesDescription", "Modality"))
        number = [*numbers(header, "SeriesNumber"), 0.0][0]
        found.append((number, FoundSeries(uid, description, modality, files)))
    return [series for _, series in sorted(found, key=lambda one: (one[0], one[1].description))]


def find_series(folder: str | os.PathLike[str]) -> tuple[list[SeriesFile], tuple[str, ...]]:
    """Find the images of the one series in a folder (not its subfolders), in patient order.

    Slices are sorted by position along the normal, else by instance number, else by file name: the same order as in
    GDCM, and so in ITK, 3D Slicer and MONAI Label's conversion to NIfTI. Repeated instances are skipped.

    Args:
        folder: The folder. Files that are not DICOM images are ignored.

    Returns:
        The images in order of ``k``; and notes for users about skipped files.

    Raises:
        UnsupportedImageError: No DICOM image, more than one series, or several multi-frame images.
        CorruptImageError: Slices of different size, or all files damaged.
        NotOneVolumeError: The images do not form one volume; the message says why.
    """
    images, damaged = _images(os.fspath(folder))
    if not images and damaged:
        raise CorruptImageError("the DICOM files of the folder are truncated or damaged")
    if not images:
        raise UnsupportedImageError(
            "there is no DICOM image among the files: several must be those of one DICOM series, any other image is one"
        )
    count = len({str(value_of(image.header, "SeriesInstanceUID")) for image in images})
    if count > 1:
        raise UnsupportedImageError(f"the folder holds {count} DICOM series; only one at a time can be read")
    single = _without_repeats(images)
    notes = []
    if damaged:
        notes.append(f"{damaged} of {damaged + len(images)} DICOM files are damaged and were skipped")
    if len(single) < len(images):
        notes.append(f"{len(images) - len(single)} of {len(images)} files repeat an instance and were skipped")
    for note in notes:
        logger.warning("A DICOM series was read, but %s", note)
    if len(single) > 1:
        single = _sorted_and_checked(single)
    return single, tuple(notes)


def _images(folder: str) -> tuple[list[SeriesFile], int]:
    """Return the folder's images sorted by name, and the number of DICOM files that could not be read."""
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
    """Return each instance once.

    Raises:
        NotOneVolumeError: If files with the same SOP Instance UID differ.
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
                "only the right one"
            )
    return single


def _whole(image: SeriesFile) -> Dataset:
    with open(image.path, "rb") as file:
        return read_dataset(file)


def _sorted_and_checked(images: list[SeriesFile]) -> list[SeriesFile]:
    """Return images in order of ``k``.

    Where positions are known, check that the images are slices of one volume.
    """
    if any(integer(image.header, "NumberOfFrames", default=1, minimum=1) > 1 for image in images):
        raise UnsupportedImageError("the series has several multi-frame images; send one of them")
    sizes = Counter((integer(i.header, "Columns", minimum=1), integer(i.header, "Rows", minimum=1)) for i in images)
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {columns} x {rows}" for (columns, rows), count in sizes.most_common(4))
        raise CorruptImageError(f"the slices of the DICOM series differ in size: {found}; send those of one size")
    headers = [image.header for image in images]
    if fault := series_problem(headers) or position_problem([(header, 0) for header in headers]):
        raise NotOneVolumeError(fault)
    ordered = _in_order(images)
    planes = [plane_of(image.header, default_spacing=UNKNOWN_SPACING) for image in ordered]
    frames = [FrameWithPlane(i.header, 0, plane) for i, plane in zip(ordered, planes, strict=True) if plane is not None]
    if len(frames) == len(ordered) and (fault := volume_problem(frames)):
        raise NotOneVolumeError(fault)
    return ordered


def _in_order(images: Sequence[SeriesFile]) -> list[SeriesFile]:
    """Sort images by position, else by Instance Number, else leave them as they are."""
    places = [position_of(image.header) for image in images]
    axes = axes_of(images[0].header)
    if axes is not None and all(place is not None for place in places):
        keys = [float(place @ np.cross(*axes)) for place in places if place is not None]
    else:
        keys = [number for image in images for number in numbers(image.header, "InstanceNumber")[:1]]
    if len(keys) < len(images) or len(set(keys)) == 1:
        return list(images)
    return [images[n] for n in sorted(range(len(images)), key=keys.__getitem__)]

"""Reading of DICOM images: one file with one or more frames, or a folder with one series."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.dicom.data_sets import read_dataset
from lib.imaging.dicom.geometry import UNKNOWN_SPACING, default_affine, frame_planes, pixel_spacing, stack_affine
from lib.imaging.dicom.header_values import integer, value_of
from lib.imaging.dicom.modality import states_hounsfield, to_modality_values
from lib.imaging.dicom.one_volume import FrameWithPlane, position_problem, volume_problem
from lib.imaging.dicom.pixel_attributes import complete_pixel_attributes
from lib.imaging.dicom.pixel_data import PIXEL_KEYWORDS, decode_pixels, decoding_bytes
from lib.imaging.dicom.series_files import find_series
from lib.imaging.dicom.voi import frame_displays
from lib.imaging.image import (
    CorruptImageError,
    Display,
    ImageGoneError,
    MedicalImage,
    UnsupportedImageError,
    position_tolerance,
)
from lib.imaging.limits import Limits

_COPIES_OF_FILE = 2
"""The file's bytes, and a copy of the pixel data."""
_COPIES_OF_VOLUME = 3
_BAD_PIXEL_ATTRIBUTES = "the DICOM image's Image Pixel attributes are damaged"
_BAD_HEADER = "the DICOM image's geometry, window or padding attributes are damaged"


def read_dicom_file(file: BinaryIO, *, limits: Limits) -> MedicalImage:
    """Read a DICOM file with one or more frames, in the file's order.

    Args:
        file: The open file, at its start.
        limits: Size limits; checked before decoding.

    Returns:
        Modality values or RGB, with one header in ``datasets``.

    Raises:
        UnsupportedImageError: Not an image, or an unsupported transfer syntax or colour space.
        CorruptImageError: Truncated or contradictory.
        ImageTooLargeError: Larger than ``limits``.
    """
    claim(_COPIES_OF_FILE * os.fstat(file.fileno()).st_size)
    dataset = read_dataset(file)
    shape = _image_shape(dataset)
    limits.check(*shape)
    _complete(dataset)
    claim(decoding_bytes(dataset, shape), math.prod(shape))
    frames = _modality_frames(dataset)
    header = _without_pixels(dataset)
    with corrupt_on_failure(_BAD_HEADER):
        return _image(frames, [header])


def read_dicom_series(folder: str | os.PathLike[str], *, limits: Limits) -> MedicalImage:
    """Read the one series of single-frame images in a folder (not its subfolders) as a volume.

    The slices are in the order of :func:`~lib.imaging.dicom.series_files.find_series`, so that ``(i, j, k)`` is the
    same voxel as in ITK, 3D Slicer and the NIfTI that MONAI Label makes of a series. The affine runs from the first to
    the last slice, so a gantry tilt shears it; for slices that are missing or unevenly spaced see ``positions`` of the
    image.

    Args:
        folder: The folder. Files that are not DICOM images are ignored.
        limits: Size limits; checked before decoding.

    Returns:
        The volume, with ``datasets`` in order of ``k``.

    Raises:
        UnsupportedImageError: No DICOM image, more than one series, or several multi-frame images.
        CorruptImageError: A damaged file, or slices of different size or kind.
        NotOneVolumeError: The images do not form one volume; the message says why.
        ImageTooLargeError: Larger than ``limits``.
    """
    files, notes = find_series(folder)
    if len(files) == 1:
        with open(files[0].path, "rb") as file:
            image = read_dicom_file(file, limits=limits)
        return replace(image, notes=(*notes, *image.notes))
    _, rows, columns = _image_shape(files[0].header)
    limits.check(len(files), rows, columns)

    headers: list[Dataset] = []
    volume = np.empty(0)
    claim(_COPIES_OF_FILE * max(os.path.getsize(found.path) for found in files), len(files) * rows * columns)
    for k, found in enumerate(files):
        with open(found.path, "rb") as file:
            dataset = read_dataset(file)
        _complete(dataset)
        if k == 0:
            claim(decoding_bytes(dataset, (1, rows, columns)))
        frame = _modality_frames(dataset)[0]
        headers.append(_without_pixels(dataset))
        if k == 0:
            claim(_COPIES_OF_VOLUME * len(files) * frame.nbytes)
            volume = np.empty((len(files), *frame.shape), frame.dtype)
        if frame.shape != volume.shape[1:]:
            raise CorruptImageError("the slices of the DICOM series differ in size, or some are grey and some colour")
        common = np.result_type(volume, frame)
        if common != volume.dtype:
            claim(_COPIES_OF_VOLUME * volume.size * common.itemsize)
            volume = volume.astype(common)
        volume[k] = frame
    with corrupt_on_failure(_BAD_HEADER):
        image = _image(volume, headers)
    return replace(image, notes=(*notes, *image.notes))


def read_dicom_headers(path: str | os.PathLike[str]) -> tuple[Dataset, ...]:
    """Read the headers of a DICOM image without decoding its pixels.

    Args:
        path: A file, or a folder that holds one series.

    Returns:
        The same as ``datasets`` of the image: one header per instance, in order of ``k``.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
        NotOneVolumeError: The images do not form one volume.
        ImageGoneError: There is no such file.
    """
    if os.path.isdir(path):
        headers = tuple(found.header for found in find_series(path)[0])
    else:
        try:
            with open(path, "rb") as file:
                headers = (read_dataset(file, stop_before_pixels=True),)
        except FileNotFoundError:
            raise ImageGoneError("there is no such image") from None
    for header in headers:
        _image_shape(header)
    return headers


@dataclass(frozen=True, eq=False)
class Place:
    """Position of the frames of a DICOM image; fields as in :class:`lib.imaging.image.MedicalImage`.

    Args:
        affine: ``(4, 4)``.
        is_geometric: Whether the affine refers to the patient.
        positions: ``(K, 3)`` or None.
        volume_fault: Why the frames do not form a volume; empty if they do.
    """

    affine: np.ndarray
    is_geometric: bool
    positions: np.ndarray | None = None
    volume_fault: str = ""


def position_of_image(headers: Sequence[Dataset], frame_count: int) -> Place:
    """Return the position of a DICOM image, from its headers.

    Args:
        headers: One per instance, in order of ``k``.
        frame_count: Number of frames of all instances.
    """
    counts = [frame_count] if len(headers) == 1 else [1] * len(headers)
    frames = [
        FrameWithPlane(header, number, plane)
        for header, count in zip(headers, counts, strict=True)
        for number, plane in enumerate(frame_planes(header, count, default_spacing=UNKNOWN_SPACING) or ())
    ]
    if len(frames) < frame_count:
        stated = [(headers[0], number) for number in range(frame_count)] if len(headers) == 1 else []
        fault = position_problem(stated, "frames")  # find_series has already refused a series with such a fault
        return Place(default_affine(headers[0]), is_geometric=False, volume_fault=fault)
    is_geometric = all(pixel_spacing(frame.header, frame.number) is not None for frame in frames)
    if len(headers) == 1 and (fault := volume_problem(frames, "frames")):
        return Place(stack_affine([frames[0].plane])[0], is_geometric, volume_fault=fault)
    affine, positions = stack_affine([frame.plane for frame in frames])
    return Place(affine, is_geometric, positions)


def _image(frames: np.ndarray, headers: Sequence[Dataset]) -> MedicalImage:
    """Build the image; attributes that are stated once for all frames are read from the middle header."""
    header = headers[len(headers) // 2]
    place = position_of_image(headers, len(frames))
    colour = frames.ndim == 4
    return MedicalImage(
        frames=frames,
        affine=place.affine,
        file_format="DICOM",
        modality=str(value_of(header, "Modality") or "") or None,
        displays=(Display(),) if colour else frame_displays(headers, frames),
        inverted=value_of(header, "PhotometricInterpretation") == "MONOCHROME1",
        is_hounsfield=False if colour else states_hounsfield(header, 0 if len(headers) > 1 else len(frames) // 2),
        is_geometric=place.is_geometric,
        datasets=tuple(headers),
        positions=place.positions,
        volume_fault=place.volume_fault,
        notes=_notes(place),
    )


def _notes(place: Place) -> tuple[str, ...]:
    """Return what users should know about the positions of the frames."""
    if place.volume_fault:
        return (place.volume_fault,)
    if place.positions is None:
        return ()
    step, tolerance = np.linalg.norm(place.affine[:3, 2]), position_tolerance(place.affine[:3, 2])
    gaps = np.linalg.norm(np.diff(place.positions, axis=0), axis=1)
    uneven = np.flatnonzero(np.abs(gaps - step) > tolerance)
    where = f" {gaps[uneven[0]]:.4g} mm between slices {uneven[0] + 1} and {uneven[0] + 2}" if len(uneven) else ""
    return (
        f"slices are missing or unevenly spaced:{where} at a usual step of {step:.4g} mm ({len(uneven)} of {len(gaps)} "
        "steps differ); a label is placed correctly on the slices that it marks",
    )


def _image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """Return ``(frames, rows, columns)`` as stated by the header."""
    sop_class = UID(str(value_of(dataset, "SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if "Rows" not in dataset and "Columns" not in dataset:
        what = f"of the kind {sop_class.name}" if sop_class else "that does not state its SOP class"
        raise UnsupportedImageError(f"the DICOM object {what} holds no image")
    return (
        integer(dataset, "NumberOfFrames", default=1, minimum=1),
        integer(dataset, "Rows", minimum=1),
        integer(dataset, "Columns", minimum=1),
    )


def _complete(dataset: Dataset) -> None:
    """Add missing Image Pixel attributes; refuse an image without pixel data."""
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise CorruptImageError("the DICOM image has no pixel data")
    with corrupt_on_failure(_BAD_PIXEL_ATTRIBUTES):
        complete_pixel_attributes(dataset)


def _modality_frames(dataset: Dataset) -> np.ndarray:
    """Decode ``(K, rows, columns)`` modality values, or ``(K, rows, columns, 3)`` RGB."""
    values = decode_pixels(dataset)
    if values.ndim == 4:
        return values
    with corrupt_on_failure("the DICOM image's Modality LUT is damaged"):
        return to_modality_values(values, dataset)


def _without_pixels(dataset: Dataset) -> Dataset:
    """Remove the pixel data from a data set, in place, and return it."""
    for keyword in PIXEL_KEYWORDS:
        if keyword in dataset:
            delattr(dataset, keyword)
    return dataset


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """Voxel grid of a series, the same as that of :func:`lib.imaging.readers.read_image`.

    Args:
        sources: The headers, one per instance, in order of ``k``.
        shape: ``(K, rows, columns)``.
        affine: ``(4, 4)``, voxel ``(i, j, k, 1)`` to RAS+ mm; None if no affine fits all voxels: the series has no
            geometry, slices are missing or unevenly spaced, or its frames do not form a volume.
        file_affine: Affine for a file of all voxels: ``affine``, or what is known of their size.
    """

    sources: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    file_affine: np.ndarray


def read_series_grid(path: str | os.PathLike[str]) -> SeriesGrid:
    """Read the voxel grid of a series from its headers.

    Args:
        path: A folder that holds one series, or one DICOM file.

    Raises:
        UnsupportedImageError: No DICOM image, or more than one series.
        CorruptImageError: A damaged file.
        NotOneVolumeError: The images do not form one volume.
    """
    sources = read_dicom_headers(path)
    count = sum(integer(source, "NumberOfFrames", default=1, minimum=1) for source in sources)
    place = position_of_image(sources, count)
    is_grid = place.is_geometric and place.positions is None and not place.volume_fault
    shape = (count, integer(sources[0], "Rows"), integer(sources[0], "Columns"))
    return SeriesGrid(sources, shape, place.affine if is_grid else None, place.affine)

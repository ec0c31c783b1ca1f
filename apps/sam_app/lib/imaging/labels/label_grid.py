"""Mapping of labels sent by clients to the voxels of their image."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.uid import SegmentationStorage

from lib.imaging.dicom.header_values import value_of
from lib.imaging.image import CorruptImageError, MedicalImage
from lib.imaging.labels.series_segmentation import read_segmentation

RAW_SUFFIX = ".bin"
"""Suffix of raw voxels, the form in which OHIF's plugin sends a label."""

_TOLERANCE = 0.25
"""Voxels that a corner may be off: programs write affines as float32 or quaternions."""


def labels_on_grid(labels: MedicalImage, affine: np.ndarray | None, shape: tuple[int, int, int]) -> np.ndarray:
    """Reorder the axes of labels so that their voxels are those of an image; no label value is changed.

    A program may have stored them with the axes in another order or direction, which their affine states.

    Args:
        labels: As read from the file.
        affine: ``(4, 4)`` of the image, voxel ``(i, j, k, 1)`` to RAS+ mm; None if it has no geometry.
        shape: ``(K, rows, columns)`` of the image.

    Returns:
        Label numbers of the shape ``shape``, voxel ``(i, j, k)`` at ``[k, j, i]``.

    Raises:
        CorruptImageError: If the voxels of the two do not coincide in the patient: a mask would be misplaced.
    """
    if labels.is_colour:
        raise CorruptImageError("labels are numbers, not colours")
    voxels: np.ndarray | None = labels.frames
    if affine is not None and labels.is_geometric:
        voxels = _reoriented(labels.frames, np.linalg.inv(affine) @ labels.affine, shape)
    if voxels is None or voxels.shape != shape:
        placed = affine is not None and labels.is_geometric
        of_labels = _extent(labels.frames.shape, labels.affine if placed else None)
        of_image = _extent(shape, affine if placed else None)
        raise CorruptImageError(f"the labels ({of_labels}) do not lie on the voxels of the image ({of_image})")
    return voxels


def check_labels(labels: MedicalImage, image: MedicalImage) -> None:
    """Check that labels belong to an image: their voxels coincide in the patient, in any order of axes.

    If one of the two has no position (e.g. a PNG), the image's frames form no volume, or the labels are in colours,
    sizes are compared.

    Raises:
        CorruptImageError: If they do not; the message states both sizes and positions.
    """
    numbers = replace(labels, frames=labels.frames[..., 0]) if labels.is_colour else labels
    labels_on_grid(numbers, _grid_affine(image), (image.frame_count, *image.frame_size))


def check_label_file(path: Path, image: MedicalImage, read: Callable[[Path], MedicalImage]) -> None:
    """Check that a label file belongs to an image, like :func:`check_labels`.

    For raw voxels (``.bin``, one byte each) only their number is compared; others are read by ``read``.

    Raises:
        ImageError: If they cannot be read, or do not belong to the image.
    """
    if path.suffix != RAW_SUFFIX:
        check_labels(read(path), image)
        return
    count, size = path.stat().st_size, (image.frame_count, *image.frame_size)
    if count != math.prod(size):
        raise CorruptImageError(f"the raw label has {count} voxels of one byte, the image {_extent(size, None)}")


def labels_of_file(
    path: Path, image: MedicalImage, read: Callable[[Path], MedicalImage], *, highest: bool = False
) -> np.ndarray:
    """Return the labels of a file on the voxels of an image; see :func:`labels_on_grid`.

    Args:
        path: Raw voxels (``.bin``, one byte each), or what ``read`` reads; a DICOM Segmentation of the image's frames
            may leave out those that are empty.
        image: The image.
        read: Reads a label file.
        highest: As of :func:`~lib.imaging.labels.series_segmentation.labels_from_segmentation`.

    Returns:
        ``(K, rows, columns)`` label numbers.

    Raises:
        ImageError: If they cannot be read, or do not lie on the image.
    """
    shape = (image.frame_count, *image.frame_size)
    if path.suffix == RAW_SUFFIX:
        check_label_file(path, image, read)
        return np.fromfile(path, dtype=np.uint8).reshape(shape)
    labels = read(path)
    if image.datasets and labels.datasets and value_of(labels.datasets[0], "SOPClassUID") == SegmentationStorage:
        return read_segmentation(path, image.datasets, highest=highest)
    return labels_on_grid(labels, _grid_affine(image), shape)


def _grid_affine(image: MedicalImage) -> np.ndarray | None:
    """Return the affine of an image whose frames form a volume in the patient; None of another."""
    return image.affine if image.is_geometric and not image.volume_fault else None


def _reoriented(voxels: np.ndarray, to_image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return ``voxels`` with the image's axes; None if swapping and flipping axes is not enough.

    Args:
        voxels: ``[k, j, i]``.
        to_image: ``(4, 4)`` voxel ``(i, j, k, 1)`` of the labels to that of the image.
        shape: Of the image, ``(K, rows, columns)``.
    """
    axes = np.abs(to_image[:3, :3]).argmax(axis=1)
    if sorted(axes) != [0, 1, 2]:
        return None
    last = np.array(voxels.shape[::-1]) - 1
    corners = np.array(np.meshgrid(*([0, end] for end in last), indexing="ij")).reshape(3, -1)
    found = to_image[:3, :3] @ corners + to_image[:3, 3:]
    flipped = to_image[range(3), axes] < 0
    straight = np.where(flipped[:, None], last[axes][:, None] - corners[axes], corners[axes])
    if np.abs(found - straight).max() > _TOLERANCE:
        return None
    ijk = voxels.T.transpose(axes)
    ijk = np.flip(ijk, axis=tuple(np.flatnonzero(flipped).tolist()))
    return ijk.T if ijk.T.shape == shape else None


def _extent(shape: tuple[int, ...], affine: np.ndarray | None) -> str:
    """Return ``columns x rows x slices`` and, if known, the centres of the first and the last voxel."""
    size = " x ".join(map(str, shape[::-1]))
    if affine is None:
        return size
    corners = np.array([[0, 0, 0, 1], [*(np.array(shape[::-1]) - 1), 1]]) @ affine.T
    first, last = (f"({', '.join(f'{value:.4g}' for value in corner[:3] + 0.0)})" for corner in corners)
    return f"{size} from {first} to {last} mm RAS"

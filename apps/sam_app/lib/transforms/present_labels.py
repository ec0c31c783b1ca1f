"""What an image's label says of a new mask: its object to start from, and those that are not to be covered."""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage
from lib.imaging.labels.label_grid import RAW_SUFFIX, labels_of_file
from lib.sam.prompts import PromptError
from lib.transforms.request import REQUEST, SegmentRequest
from lib.transforms.window import select_frame

ReadLabel = Callable[[Path], MedicalImage]


def start_labels(data: Mapping[Hashable, Any], read: ReadLabel) -> np.ndarray | None:
    """Return the label from whose object the ``request`` starts, on the voxels of ``image``.

    A picture without position, of a frame's size, is the label of the one frame to segment.

    Args:
        data: With ``request`` and ``image``.
        read: Reads a label file.

    Returns:
        ``(K, rows, columns)`` label numbers, or ``(1, rows, columns)`` for such a picture; None if it starts from none.

    Raises:
        PromptError: If the image has no label.
        ImageError: If the label cannot be read, or does not lie on the image.
    """
    request: SegmentRequest = data[REQUEST]
    if not request.options.start_from_label:
        return None
    if not request.prompting_label:
        raise PromptError("there is no label to start from: send one, or store one with the image")
    labels = _labels_of(Path(request.prompting_label), data["image"], read)
    if request.label_value is None:
        return labels
    return np.where(labels == request.label_value, labels, 0)


def _labels_of(path: Path, image: MedicalImage, read: ReadLabel) -> np.ndarray:
    """Return a label file's numbers ``(K, rows, columns)``; ``(1, rows, columns)`` for a picture of a frame's size."""
    if path.suffix == RAW_SUFFIX:
        return labels_of_file(path, image, read)
    labels = read(path)
    if labels.frames.shape == (1, *image.frame_size) and not labels.is_geometric:
        return labels.frames
    return labels_of_file(path, image, lambda _: labels)


def start_on_slice(labels: np.ndarray, image: MedicalImage, k: int) -> np.ndarray:
    """Return the mask to start from on slice k, ``(rows, columns)`` bool.

    Args:
        labels: As of :func:`start_labels`.
        image: The image.
        k: The slice.

    Raises:
        PromptError: If there is no such slice, or not exactly one object on it.
    """
    select_frame(image, k)
    return one_object(slice_of(labels, k), f"on slice {k}")


def slice_of(labels: np.ndarray, k: int) -> np.ndarray:
    """Return what is on slice k of labels, which may be a picture of that slice alone, ``(1, rows, columns)``."""
    return np.asarray(labels[k if len(labels) > 1 else 0])


def one_object(labels: np.ndarray, where: str) -> np.ndarray:
    """Return where the only object of labels is, bool.

    Args:
        labels: Label numbers.
        where: For the message.

    Raises:
        PromptError: If there is no object, or more than one.
    """
    values = np.unique(labels[labels != 0])
    if len(values) == 1:
        return np.asarray(labels != 0)
    found = f"the values {', '.join(f'{value:g}' for value in values[:5])}" if len(values) else "nothing"
    raise PromptError(f"the mask to start from has {found} {where}: it must be one object, of one value other than 0")


class ProtectLabeld:
    """Add ``protected``, where the other objects of the image's label are, from ``image`` and ``request``; or None.

    It is ``(K, rows, columns)`` bool, or ``(1, rows, columns)`` for a picture of the one frame to segment.

    Args:
        read: Reads the label.
    """

    def __init__(self, read: ReadLabel) -> None:
        self._read = read

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find them.

        Raises:
            ImageError: If the label cannot be read, or does not lie on the image.
        """
        request: SegmentRequest = data[REQUEST]
        if not request.options.protect or not request.protecting_label:
            return {**data, "protected": None}
        labels = _labels_of(Path(request.protecting_label), data["image"], self._read)
        own = 0 if request.label_value is None else request.label_value
        return {**data, "protected": (labels != 0) & (labels != own)}

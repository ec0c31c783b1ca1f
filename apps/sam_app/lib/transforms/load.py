"""Load the image of a request as a :class:`~lib.imaging.image.MedicalImage`, and check a label sent with it."""

import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.decoding.memory_budget import budget
from lib.imaging.image import ImageError, ImageGoneError, MedicalImage
from lib.imaging.image_cache import ImageCache
from lib.imaging.labels.label_grid import check_label_file
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.imaging.readers import read_image
from lib.transforms.request import REQUEST, SegmentRequest

_MAX_ASPECT = 256
"""Largest ratio of the sides: a thinner image would have no pixel left at the smallest model's input size."""


class LoadMedicalImage:
    """Load a path, an array or a loaded image as a :class:`MedicalImage`.

    Args:
        limits: A larger image is refused.
        images: Cache of images; by default nothing is cached.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, images: ImageCache | None = None) -> None:
        self.limits = limits
        self.images = images or ImageCache(max_bytes=0)

    def __call__(
        self, source: str | os.PathLike[str] | np.ndarray | MedicalImage, key: str | None = None
    ) -> MedicalImage:
        """Return the loaded image.

        Args:
            source: A file (NIfTI, NRRD, DICOM, PNG, JPEG, TIFF, BMP) or a folder with one DICOM series; or an array
                ``(H, W)``, ``(H, W, 3)`` uint8 or ``(K, H, W)``.
            key: Names the content, if known; see :meth:`ImageCache.get_or_read`.

        Raises:
            ImageError: If it cannot be read; the message says why and names no path.
        """
        if isinstance(source, MedicalImage):
            return source
        if isinstance(source, (str, os.PathLike)):
            try:
                return self.images.get_or_read(Path(source), self._read, key)
            except FileNotFoundError:
                raise ImageGoneError("there is no such image") from None
        array = np.asarray(source)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8):
            array = array[None]
        try:
            return MedicalImage(frames=array)
        except ValueError as error:
            raise ImageError(str(error)) from None

    def _read(self, path: Path) -> MedicalImage:
        image = read_image(path, self.limits)
        rows, columns = image.frame_size
        if max(rows, columns) > _MAX_ASPECT * min(rows, columns):
            raise ImageError(
                f"the image has {columns} columns and {rows} rows: a side can be at most {_MAX_ASPECT} times the other"
            )
        return image


class LoadMedicalImaged:
    """Replace ``image`` by the loaded image, and add ``reserved``, the memory reserved for work on it.

    Arguments are those of :class:`LoadMedicalImage`, and the ``key`` of the image's content, if known.
    """

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, images: ImageCache | None = None, key: str | None = None
    ) -> None:
        self.key = key
        self.load = LoadMedicalImage(limits, images)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the image; raises as :class:`LoadMedicalImage`."""
        with current_clock().stage("read"):
            image = self.load(data["image"], self.key)
            return {**data, "image": image, "reserved": budget.reserve_for_work(image)}


class SentLabeld:
    """Check that the label sent with the ``request``, if any, fits ``image``; adds nothing.

    Args:
        read: Reads the label.
    """

    def __init__(self, read: Callable[[Path], MedicalImage]) -> None:
        self._read = read

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the label.

        Raises:
            ImageError: If it cannot be read, or its size or position differs from the image's.
        """
        request: SegmentRequest = data[REQUEST]
        if request.sent_label:
            check_label_file(Path(request.sent_label), data["image"], self._read)
        return dict(data)

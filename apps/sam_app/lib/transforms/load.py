"""Load the image of a request as a :class:`~lib.imaging.image.MedicalImage`."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from lib.base.clock import current_clock
from lib.imaging.decoding.memory_budget import budget
from lib.imaging.image import ImageError, ImageGoneError, MedicalImage
from lib.imaging.image_cache import ImageCache
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.imaging.readers import read_image

_MAX_ASPECT = 256
"""Largest ratio of the sides: a thinner image would have no pixel left at the smallest model's input size."""


class LoadMedicalImage(Transform):
    """Load a path, an array or a loaded image as a :class:`MedicalImage`.

    Args:
        limits: A larger image is refused.
        images: Cache of images; by default nothing is cached.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, images: ImageCache | None = None) -> None:
        self.limits = limits
        self.images = images or ImageCache(max_bytes=0)

    def __call__(
        self, source: str | os.PathLike[str] | np.ndarray | MedicalImage, sha256: str | None = None
    ) -> MedicalImage:
        """Return the loaded image.

        Args:
            source: A file (NIfTI, NRRD, DICOM, PNG, JPEG, TIFF, BMP) or a folder with one DICOM series; or an array
                ``(H, W)``, ``(H, W, 3)`` uint8 or ``(K, H, W)``.
            sha256: SHA-256 of the file's content, if known; see :meth:`ImageCache.get_or_read`.

        Raises:
            ImageError: If it cannot be read; the message says why and names no path.
        """
        if isinstance(source, MedicalImage):
            return source
        if isinstance(source, (str, os.PathLike)):
            try:
                return self.images.get_or_read(Path(source), self._read, sha256)
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


class LoadMedicalImaged(MapTransform):
    """Dictionary version of :class:`LoadMedicalImage`.

    Args:
        keys: Keys of the images.
        limits: Likewise.
        images: Likewise.
        sha256: SHA-256 of the image file's content, if known; only with a single key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        limits: Limits = DEFAULT_LIMITS,
        images: ImageCache | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.sha256 = sha256
        self.load = LoadMedicalImage(limits, images)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key's value by the loaded image, and reserve memory for work on it as ``reserved``."""
        result = dict(data)
        with current_clock().stage("read"):
            for key in self.key_iterator(result):
                result[key] = self.load(result[key], self.sha256)
                result["reserved"] = budget.reserve_for_work(result[key])
        return result

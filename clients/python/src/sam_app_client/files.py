"""Images and masks as files to send."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sam_app_client import nrrd, png


@runtime_checkable
class DicomDataset(Protocol):
    """A ``pydicom.Dataset`` (pydicom 3): what is needed of it, as pydicom itself is not."""

    def save_as(self, filename: Any, /, *, enforce_file_format: bool) -> None:
        """Write it to a path or a stream."""


ImageInput: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any] | DicomDataset
"""An image to send.

- A path of a file in any format that the server reads (``docs/rest.md``): PNG, JPEG, TIFF, BMP, DICOM, NIfTI, NRRD.
- Such a file's bytes.
- A ``pydicom.Dataset``.
- An array: ``(rows, columns)`` or ``(slices, rows, columns)`` of whole or floating-point numbers, or
  ``(rows, columns, 3)`` of uint8, which is RGB. It has no place in a patient and no units: 8-bit values are shown as
  they are, others by a window that you give or the server chooses.
"""

MaskInput: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any]
"""A mask to send: a file as in ``docs/rest.md``, or ``(rows, columns)`` or ``(slices, rows, columns)`` of bool or whole
numbers, 0 beside the object."""


@dataclass(frozen=True)
class File:
    """A file of a form.

    Args:
        name: Its name; of an upload the server only looks at the end of it.
        content: Its bytes.
    """

    name: str
    content: bytes


def image_file(image: ImageInput, name: str = "image") -> File:
    """Return an image as a file.

    Args:
        image: The image.
        name: The file's name, without suffix, if the image has none of its own.

    Raises:
        OSError: If it cannot be read.
        TypeError, ValueError: If it is none of :data:`ImageInput`.
    """
    if isinstance(image, bytes):
        return File(name, image)
    if isinstance(image, (str, os.PathLike)):
        return File(Path(image).name, Path(image).read_bytes())
    if isinstance(image, np.ndarray):
        return _array_file(image, name)
    if isinstance(image, DicomDataset):
        buffer = io.BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        return File(f"{name}.dcm", buffer.getvalue())
    raise TypeError(f"an image is a path, bytes, an array or a pydicom.Dataset, not {type(image).__name__}")


def mask_file(mask: MaskInput, name: str) -> File:
    """Return a mask, or a map of several objects, as a file; see :func:`image_file`."""
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = mask.astype(np.uint8)
    if isinstance(mask, np.ndarray) and mask.dtype.kind not in "ui":
        raise TypeError(f"a mask is of bool or whole numbers, not of {mask.dtype}")
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.size and mask.min() >= 0 and mask.max() <= 255:
        mask = mask.astype(np.uint8)
    return image_file(mask, name)


def _array_file(array: npt.NDArray[Any], name: str) -> File:
    is_colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not array.size or not (is_colour or array.ndim in (2, 3)):
        raise ValueError(
            "an array is (rows, columns), (slices, rows, columns) or (rows, columns, 3) of uint8, not "
            f"{array.shape} of {array.dtype}"
        )
    if array.dtype == np.uint8 and (is_colour or array.ndim == 2):
        return File(f"{name}.png", png.encode(array))
    return File(f"{name}.nrrd", nrrd.encode(array))

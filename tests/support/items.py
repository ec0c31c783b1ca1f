"""Parts of DICOM data sets for tests."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

NO_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
"""What multi-frame objects do not have at the root."""


def item(**attributes: Any) -> Dataset:
    """A sequence's item."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made

"""Decoding the pixels of a data set that no file holds, as the server does it: in a worker process."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from lib.imaging import dicom_pixels
from lib.imaging.isolation import isolated


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """As :func:`lib.imaging.dicom_pixels.decode_pixels`."""
    return isolated(dicom_pixels.decode_pixels, dataset, memory=512 * 2**20, seconds=30)

"""Decoding the pixels of a data set that no file holds, as the server does it: in a worker process."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from lib.imaging.decoding.isolation import isolated
from lib.imaging.dicom import pixel_data


def decode_pixels(dataset: Dataset) -> np.ndarray:
    """As :func:`lib.imaging.dicom.pixel_data.decode_pixels`."""
    return isolated(pixel_data.decode_pixels, dataset, memory=512 * 2**20, seconds=30)

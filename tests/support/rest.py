"""What tests of the REST routes send and how they read what comes back."""

from __future__ import annotations

import io
import json

import numpy as np
import requests
from PIL import Image

DISC_BOX = {"startX": 90, "startY": 50, "width": 80, "height": 80}
DISC = json.dumps({"model": "SAM", "rectangles": [DISC_BOX]})


def png(array: np.ndarray, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format)
    return buffer.getvalue()


def picture(response: requests.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))

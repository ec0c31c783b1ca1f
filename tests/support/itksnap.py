"""What ITK-SNAP sends and reads, as its protocol describes it."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import numpy as np


def form(array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), **metadata: Any) -> dict[str, Any]:
    """The multipart form of an image or a drawing, ``(z, y, x)`` or ``(y, x)``, for the argument ``files``."""
    axes = array.ndim
    described = {
        "dimensions": array.shape[::-1],
        "spacing": spacing[:axes],
        "origin": [0.0] * axes,
        "direction": np.eye(axes).ravel().tolist(),
        "components_per_pixel": 1,
        "component_type": "float32",
        **metadata,
    }
    return {
        "file": ("image.gz", gzip.compress(array.astype("<f4").tobytes(), 1), "application/gzip"),
        "metadata": (None, json.dumps(described), "application/json"),
    }


def mask_in(answer: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The mask of an answer, bool; it must have exactly as many bytes as the image has voxels."""
    assert answer["status"] == "success"
    values = np.frombuffer(gzip.decompress(base64.b64decode(answer["result"], validate=True)), np.int8)
    return values.reshape(shape) > 0

"""Arrays of a result's folder, read back."""

from __future__ import annotations

import os
from threading import Lock

import numpy as np

_parsing = Lock()
"""NumPy parses a file's header as Python; in two threads at once CPython 3.11 can fail to: python/cpython#106905."""


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    with _parsing:
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz`` file, by name.

    Raises:
        OSError: As :func:`read_array`; likewise a ValueError.
    """
    with _parsing, np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)

"""Readers of the arrays in a result's folder."""

from __future__ import annotations

import os
from threading import Lock

import numpy as np

_parsing = Lock()
"""NumPy parses a file's header as Python; CPython 3.11 can fail if two threads do so at once: python/cpython#106905."""


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    with _parsing:
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return all arrays of a ``.npz`` file, by name.

    Raises:
        OSError, ValueError: As :func:`read_array`.
    """
    with _parsing, np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)

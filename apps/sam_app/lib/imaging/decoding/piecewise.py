"""Elementwise work on large arrays, a piece at a time, so that what it makes on the way stays small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_PIECE = 1 << 20
"""Elements."""


def piecewise(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write ``function`` of an array into another one.

    Args:
        function: Works on each element by itself; gets at most some million at a time, in one dimension.
        values: Any shape.
        out: Of the same shape, contiguous; may be ``values`` itself.

    Returns:
        ``out``.
    """
    source, target = values.reshape(-1), out.reshape(-1)
    for start in range(0, source.size, _PIECE):
        target[start : start + _PIECE] = function(source[start : start + _PIECE])
    return out


def finite(values: np.ndarray) -> np.ndarray:
    """Replace NaN and infinities by the smallest finite value (by 0 if there is none).

    Args:
        values: Any shape, float; contiguous.

    Returns:
        The same array if all of it is finite, else a copy of the same dtype.
    """
    flat = values.reshape(-1)
    pieces = [flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE)]
    if all(np.isfinite(piece).all() for piece in pieces):
        return values
    least = min((piece[np.isfinite(piece)].min(initial=np.inf) for piece in pieces), default=np.inf)
    fill = np.asarray(least if np.isfinite(least) else 0).astype(values.dtype)
    return piecewise(lambda piece: np.where(np.isfinite(piece), piece, fill), values, np.empty_like(values))

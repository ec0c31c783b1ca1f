"""Elementwise operations on large arrays, piece by piece, so that temporary arrays stay small."""

from collections.abc import Callable

import numpy as np

_PIECE = 1 << 20
"""Elements per piece."""


def piecewise(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write ``function`` of an array into another array, piece by piece.

    Args:
        function: Elementwise; receives about a million elements at a time, in one dimension.
        values: Any shape.
        out: Contiguous array of the same shape; may be ``values`` itself.

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
        values: Contiguous float array of any shape.

    Returns:
        The same array if all values are finite, else a copy with the same dtype.
    """
    flat = values.reshape(-1)
    pieces = [flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE)]
    if all(np.isfinite(piece).all() for piece in pieces):
        return values
    least = min((piece[np.isfinite(piece)].min(initial=np.inf) for piece in pieces), default=np.inf)
    fill = np.asarray(least if np.isfinite(least) else 0).astype(values.dtype)
    return piecewise(lambda piece: np.where(np.isfinite(piece), piece, fill), values, np.empty_like(values))

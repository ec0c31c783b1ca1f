"""Whether anything is seen in a windowed frame that has something to show.

Looking is cheap where all is well: only a frame that seems to be lost is looked at as a whole.
"""

from __future__ import annotations

import numpy as np

_DARK, _BRIGHT = 32, 223
"""Of 255: what all is below or above of is black or white to a viewer."""
_FEW_LEVELS = 24
_TAIL = 0.01
"""A picture whose other pixels are black or white is no picture; and so many may be burnt-in text."""
_WASHED_OUT = 0.25
"""Share of white pixels, above which a picture that leaves the lowest quarter of the scale unused is none, either."""
_LITTLE = 0.001
"""Share of pixels that make a drawing on white paper."""
_LOOKED_AT = 40_000
_LOOKED_CLOSELY_AT = 1_000_000
_COUNTED_AT_ONCE = 1 << 20
_BLOCKS = 8
_STRUCTURED = 0.1
"""Share of the variance that is left in the means of blocks: 1/256 to 1/20 for noise, most of it for objects."""


def subsample(frame: np.ndarray, count: int = _LOOKED_AT) -> np.ndarray:
    """A frame ``(rows, columns[, 3])`` thinned out evenly to about so many pixels."""
    step = max(1, round((frame.shape[0] * frame.shape[1] / count) ** 0.5))
    return frame[::step, ::step]


def is_uninformative(shown: np.ndarray) -> bool:
    """Whether nearly all of a picture is of one grey, or at the ends of the scale, or white and pale.

    Args:
        shown: Any shape, uint8.
    """
    shares = _shares(shown)
    return bool(_is_flat(shares) or _is_washed_out(shares) or shares[1:255].sum() < _TAIL)


def hides_content(values: np.ndarray, shown: np.ndarray, of_interest: np.ndarray) -> bool:
    """Whether a picture loses what there is in its values.

    Args:
        values: ``(rows, columns)``, or ``(rows, columns, 3)`` uint8.
        shown: The same as shown, uint8.
        of_interest: Which of them count, bool of the same shape.

    Returns:
        False also where nothing is lost because there is nothing: one value, or noise around it.
    """
    counted = shown[of_interest]
    if counted.size == 0 or not is_uninformative(counted):
        return False
    if _is_flat(_shares(counted)):
        low, high = np.percentile(values[of_interest], (100 * _TAIL, 100 - 100 * _TAIL))
        return bool(high > low) and _is_structured(values, of_interest, (low, high))
    return _clips(values[of_interest], counted) and _is_structured(values, of_interest)


def _shares(shown: np.ndarray) -> np.ndarray:
    """``(256,)``: the share of each grey value."""
    flat, counts = shown.reshape(-1), np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, _COUNTED_AT_ONCE):  # each is widened to 8 bytes
        counts += np.bincount(flat[start : start + _COUNTED_AT_ONCE], minlength=256)
    shares: np.ndarray = counts / max(shown.size, 1)
    return shares


def _is_flat(shares: np.ndarray) -> bool:
    first, last = np.searchsorted(shares.cumsum(), (_TAIL / 2, 1 - _TAIL / 2))
    is_dark, is_bright = shares[_DARK:].sum() < _TAIL, shares[: _BRIGHT + 1].sum() < _LITTLE
    return bool(is_dark or is_bright or (last - first < _FEW_LEVELS and first <= _BRIGHT))


def _is_washed_out(shares: np.ndarray) -> bool:
    return bool(shares[255] > _WASHED_OUT and shares[:64].sum() < _TAIL)


def _clips(values: np.ndarray, shown: np.ndarray) -> bool:
    """Whether values that differ look alike, as they are white, or all but the least ones are black or white."""
    above_least = shown[values > values.min()]
    is_clipped = ((above_least > 0) & (above_least < 255)).mean() < _TAIL
    return bool(is_clipped or _is_washed_out(_shares(shown))) and len(np.unique(values)) > len(np.unique(shown))


def _is_structured(values: np.ndarray, of_interest: np.ndarray, ends: tuple[float, float] = (-np.inf, np.inf)) -> bool:
    """Whether values, cut to these ends, vary over distances, as objects make them.

    Noise varies from pixel to pixel.
    """
    least = values[of_interest].min()
    grey = np.where(subsample(of_interest, _LOOKED_CLOSELY_AT), subsample(values, _LOOKED_CLOSELY_AT), least)
    grey = np.clip(grey.astype(np.float64), *ends)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    grey = grey / (np.abs(grey).max() or 1)  # no overflow of squares
    side = min(16, max(1, min(grey.shape) // _BLOCKS))
    rows, columns = (length // side * side for length in grey.shape)
    blocks = grey[:rows, :columns].reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))
    return bool(blocks.var() > _STRUCTURED * grey.var())

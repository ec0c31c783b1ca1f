"""Detect windows that hide the content of a frame.

The check is cheap for good windows: only a frame that seems hidden is examined as a whole.
"""

import numpy as np

_DARK, _BRIGHT = 32, 223
"""Grey values of 255: a picture all below or all above looks black or white."""
_FEW_LEVELS = 24
_NEGLIGIBLE_SHARE = 0.01
"""Share of pixels that does not count, it may be burnt-in text; with fewer grey pixels a picture is uninformative."""
_WHITE_SHARE = 0.25
"""With a greater share of white pixels, a picture without the lowest quarter of the scale is uninformative, too."""
_DRAWING_SHARE = 0.001
"""Smallest share of pixels that can be a drawing on white paper."""
_SAMPLE_PIXELS = 40_000
_MAX_PIXELS = 1_000_000
_COUNT_CHUNK = 1 << 20
_BLOCKS = 8
_MIN_BLOCK_VARIANCE = 0.1
"""Smallest share of the variance that remains in the means of blocks for objects (most of it); noise: 1/256 to 1/20."""


def subsample(frame: np.ndarray, count: int = _SAMPLE_PIXELS) -> np.ndarray:
    """Return about ``count`` pixels of a frame ``(rows, columns[, 3])``, evenly taken."""
    step = max(1, round((frame.shape[0] * frame.shape[1] / count) ** 0.5))
    return frame[::step, ::step]


def is_uninformative(shown: np.ndarray) -> bool:
    """Return whether nearly all of a picture is one grey, or black and white, or white and pale.

    Args:
        shown: Any shape, uint8.
    """
    shares = _shares(shown)
    return bool(_is_flat(shares) or _is_washed_out(shares) or shares[1:255].sum() < _NEGLIGIBLE_SHARE)


def hides_content(values: np.ndarray, shown: np.ndarray, of_interest: np.ndarray) -> bool:
    """Return whether a windowed picture hides the content of its values.

    Args:
        values: ``(rows, columns)``, or ``(rows, columns, 3)`` uint8.
        shown: The windowed picture, uint8.
        of_interest: Which values count, bool of the same shape.

    Returns:
        False also for values without content: a single one, or noise around it.
    """
    counted = shown[of_interest]
    if counted.size == 0 or not is_uninformative(counted):
        return False
    if _is_flat(_shares(counted)):
        low, high = np.percentile(values[of_interest], (100 * _NEGLIGIBLE_SHARE, 100 - 100 * _NEGLIGIBLE_SHARE))
        return bool(high > low) and _is_structured(values, of_interest, (low, high))
    return _clips(values[of_interest], counted) and _is_structured(values, of_interest)


def _shares(shown: np.ndarray) -> np.ndarray:
    """Return the share of each grey value, ``(256,)``."""
    flat, counts = shown.reshape(-1), np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, _COUNT_CHUNK):  # bincount converts each value to 8 bytes
        counts += np.bincount(flat[start : start + _COUNT_CHUNK], minlength=256)
    return counts / max(shown.size, 1)


def _is_flat(shares: np.ndarray) -> bool:
    first, last = np.searchsorted(shares.cumsum(), (_NEGLIGIBLE_SHARE / 2, 1 - _NEGLIGIBLE_SHARE / 2))
    is_dark, is_bright = shares[_DARK:].sum() < _NEGLIGIBLE_SHARE, shares[: _BRIGHT + 1].sum() < _DRAWING_SHARE
    return bool(is_dark or is_bright or (last - first < _FEW_LEVELS and first <= _BRIGHT))


def _is_washed_out(shares: np.ndarray) -> bool:
    return bool(shares[255] > _WHITE_SHARE and shares[:64].sum() < _NEGLIGIBLE_SHARE)


def _clips(values: np.ndarray, shown: np.ndarray) -> bool:
    """Return whether different values look alike: too many are white, or all but the lowest are black or white."""
    above_least = shown[values > values.min()]
    is_clipped = ((above_least > 0) & (above_least < 255)).mean() < _NEGLIGIBLE_SHARE
    return bool(is_clipped or _is_washed_out(_shares(shown))) and len(np.unique(values)) > len(np.unique(shown))


def _is_structured(values: np.ndarray, of_interest: np.ndarray, ends: tuple[float, float] = (-np.inf, np.inf)) -> bool:
    """Return whether values, clipped to ``ends``, vary over distances as objects do, not per pixel as noise."""
    least = values[of_interest].min()
    grey = np.where(subsample(of_interest, _MAX_PIXELS), subsample(values, _MAX_PIXELS), least)
    grey = np.clip(grey.astype(np.float64), *ends)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    grey = grey / (np.abs(grey).max() or 1)  # no overflow of squares
    side = min(16, max(1, min(grey.shape) // _BLOCKS))
    rows, columns = (length // side * side for length in grey.shape)
    blocks = grey[:rows, :columns].reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))
    return bool(blocks.var() > _MIN_BLOCK_VARIANCE * grey.var())

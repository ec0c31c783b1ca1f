"""What clients draw on an image, as prompts: cut to what it covers."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from lib.sam.volume.interactions import Bounds, Lasso, Scribble
from lib.server.http.errors import InteractionError

Shape: TypeAlias = tuple[int, int, int]


def drawing(
    kind: type[Scribble] | type[Lasso], drawn: np.ndarray, is_foreground: bool, corner: Shape = (0, 0, 0)
) -> Scribble | Lasso:
    """Return a scribble or a lasso, cut to what it covers; if that is nothing, one voxel that is not drawn.

    Args:
        kind: Which of them.
        drawn: Three-dimensional bool.
        is_foreground: Whether it is on the object; if not, it is beside it.
        corner: Indices of the first voxel of ``drawn`` in the image.

    Raises:
        InteractionError: If a lasso is not in one plane.
    """
    taken = covered(drawn)
    if taken is None:
        return kind(corner, drawn[:1, :1, :1].copy(), is_foreground)
    if kind is Lasso and all(high - low > 1 for low, high in taken):
        raise InteractionError(f"the lasso is drawn in {[high - low for low, high in taken]} voxels, not in one plane")
    c0, c1, c2 = (start + low for start, (low, _) in zip(corner, taken, strict=True))
    return kind((c0, c1, c2), drawn[places(taken)].copy(), is_foreground)


def covered(mask: np.ndarray) -> Bounds | None:
    """Return the tight box around what is True in a 3-D mask; None if nothing is."""
    slices = [k for k, plane in enumerate(mask) if plane.any()]
    if not slices:
        return None
    plane = np.zeros(mask.shape[1:], dtype=bool)
    for k in slices:
        plane |= mask[k]
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    return tuple((int(taken[0]), int(taken[-1]) + 1) for taken in (slices, rows, columns))


def places(bounds: Bounds) -> tuple[slice, ...]:
    """Return the index of a box in an array."""
    return tuple(slice(low, high) for low, high in bounds)

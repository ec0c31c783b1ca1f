"""Prompts from what a user draws on a slice: a scribble, or a lasso around the object.

A scribble becomes a few points along its middle line, which are all that SAM was trained with. A lasso is a box that
says more: the area within it is the mask prompt, and bounds the answer.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lib.sam.logits_grid import innermost
from lib.sam.models.registry import PromptKind
from lib.sam.packed_mask import extent, tight_box
from lib.sam.prompts import BACKGROUND, FOREGROUND, PromptError, Prompts

MOST_POINTS = 3
"""Points of a scribble: SAM gains nothing from more of them."""

_LEAST_DISTANCE = 4.0
"""Between two points of a scribble, in pixels."""

_THIN = 5
"""A middle line of fewer pixels is too short: all of the scribble counts instead."""

_MOST_SEARCHED, _MOST_PLACES = 1 << 21, 1 << 17
"""Pixels in which a middle line is looked for, which takes a second; and places of a larger scribble, evenly chosen."""

_CAP_POINTS = 9
"""Corners of the half circle at each end of a part of a scribble's line."""

_MOST_LASSO_PIXELS = 1 << 27
"""Of the areas of several lassos together: 128 MiB."""

_FARTHEST = 1e9
"""Coordinates beyond this, in pixels, count as this: there is no image there."""


def stroke_points(drawn: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Return points along a scribble: the one nearest to its middle, then each as far as possible from the others.

    Args:
        drawn: Where it was drawn, bool, of two or three axes; the line through it is looked for in its plane.
        most: At most so many points.

    Returns:
        ``(n, axes)`` indices of pixels on it; none if nothing was drawn.
    """
    others = [tuple(other for other in range(drawn.ndim) if other != axis) for axis in range(drawn.ndim)]
    part = tuple(extent(np.any(drawn, axis=axes)) for axes in others)
    within = drawn[part]
    if not within.size:
        return np.zeros((0, drawn.ndim), dtype=int)
    thick = np.array([axis for axis, size in enumerate(within.shape) if size > 1], dtype=int)
    flat = within.reshape([within.shape[axis] for axis in thick] or [1])
    filled = np.flatnonzero(flat)
    places = np.column_stack(np.unravel_index(filled[:: 1 + len(filled) // _MOST_PLACES], flat.shape))
    if len(thick) >= 2 and flat.size <= _MOST_SEARCHED and len(line := _middle_line(flat)) >= _THIN:
        places = line
    chosen = [np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]
    distance = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < most and distance.max() >= _LEAST_DISTANCE:
        chosen.append(distance.argmax())
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    points = np.tile([one.start for one in part], (len(chosen), 1))
    if len(thick):
        points[:, thick] += places[chosen]
    return points


def scribble_points(line: np.ndarray, width: float, size: tuple[int, int]) -> np.ndarray:
    """Return points along a scribble that was drawn as a line through points; the first is nearest to its middle.

    Args:
        line: ``(n, 2)`` XY, at least one point; what is outside the image is left out.
        width: Of the line in pixels, above 0; its ends are round.
        size: ``(height, width)`` of the image.

    Returns:
        ``(m, 2)`` XY, as of :func:`stroke_points`.

    Raises:
        PromptError: If nothing of it is on the image.
    """
    ends = _bounded(line) @ (1, 1j)
    begins, ends = (ends[:-1], ends[1:]) if len(ends) > 1 else (ends, ends)
    ahead = np.exp(1j * np.angle(ends - begins))[:, None]
    cap = width / 2 * np.exp(1j * np.linspace(-np.pi / 2, np.pi / 2, _CAP_POINTS))
    capsules = np.concatenate([ends[:, None] + ahead * cap, begins[:, None] - ahead * cap], axis=1)
    (top, left), drawn = _enclosed(np.stack([capsules.real, capsules.imag], axis=2), size)
    for x, y in np.round(_bounded(line)).astype(int):  # one that is thinner than a pixel may lie between their centres
        if 0 <= x < size[1] and 0 <= y < size[0]:
            drawn[y - top, x - left] = True
    if not drawn.any():
        raise PromptError(f"the scribble that begins at {_place(line)} is outside the image of {size[1]} x {size[0]}")
    rows, columns = stroke_points(drawn).T
    return np.column_stack([columns + left, rows + top]).astype(np.float64)


def lasso_areas(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Return the area of each of several lassos; see :func:`lasso_area`.

    Raises:
        PromptError: As :func:`lasso_area`, or if there are too many for the memory.
    """
    most = max(1, _MOST_LASSO_PIXELS // (size[0] * size[1]))
    if len(outlines) > most:
        raise PromptError(f"there are {len(outlines)} lassos; on an image of this size at most {most} are possible")
    return [lasso_area(outline, size) for outline in outlines]


def lasso_area(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres are within an outline, also where it was drawn around them more than once.

    Args:
        outline: ``(n, 2)`` XY, at least three points, of which the last is joined to the first; it is clipped to the
            image.
        size: ``(height, width)`` of the image.

    Returns:
        ``(height, width)`` bool, not empty.

    Raises:
        PromptError: If there is no such pixel on the image.
    """
    (top, left), inside = _enclosed(_bounded(outline)[None], size)
    if not inside.any():
        raise PromptError(
            f"the lasso that begins at {_place(outline)} encloses no pixel of the image of {size[1]} x {size[0]}"
        )
    area = np.zeros(size, dtype=bool)
    area[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return area


def _bounded(points: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(points, dtype=np.float64), -_FARTHEST, _FARTHEST)


def _place(points: np.ndarray) -> str:
    return f"({points[0][0]:g}, {points[0][1]:g})"


def _enclosed(outlines: np.ndarray, size: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
    """Return the pixels of an image whose centres at least one of these closed outlines winds around.

    Outlines that overlap must turn in the same direction.

    Args:
        outlines: ``(m, n, 2)`` XY.
        size: ``(height, width)`` of the image.

    Returns:
        The (row, column) of the first pixel of the part of the image around them, and that part, bool.
    """
    limits = np.array([size[1] - 1, size[0] - 1])
    left, top = np.clip(np.floor(outlines.min(axis=(0, 1))), 0, limits).astype(int).tolist()
    right, bottom = np.clip(np.ceil(outlines.max(axis=(0, 1))), 0, limits).astype(int).tolist()
    starts = outlines.reshape(-1, 2)
    ends = np.roll(outlines, -1, axis=1).reshape(-1, 2)
    upper, lower = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    first, last = (np.clip(np.ceil(rows), top, bottom + 1).astype(int) for rows in (upper, lower))
    turns = np.zeros((bottom + 1 - top, right + 2 - left), dtype=np.int32)
    for n in np.flatnonzero(first < last):  # how often it winds around a pixel: the edges to its left, up less down
        (x0, y0), (x1, y1) = starts[n], ends[n]
        rows = np.arange(first[n], last[n])
        part = (rows - y0) / (y1 - y0)
        columns = np.clip(np.ceil(x0 + part * (x1 - x0)), left, right + 1).astype(int)
        turns[rows - top, columns - left] += 1 if y0 < y1 else -1
    return (top, left), np.cumsum(turns, axis=1)[:, :-1] != 0


def lasso_prompts(area: np.ndarray, kinds: Sequence[PromptKind]) -> Prompts:
    """Return the prompts that say that the object is about an area.

    Args:
        area: Within the outline, ``(H, W)`` bool, not empty.
        kinds: Of prompts that the model was trained with; one for points alone gets the innermost point.
    """
    if "box" in kinds:
        return Prompts(box=tight_box(area), area=area, encloses=True)
    row, column = innermost(area)
    return Prompts(points=[(column, row)], labels=[1], area=area, encloses=True)  # type: ignore[arg-type]  # anything array-like


def with_points(prompts: Prompts | None, foreground: ArrayLike, background: ArrayLike) -> Prompts:
    """Return prompts with more points, lists of XY: what marks the object, and where it is not.

    Raises:
        PromptError: If nothing marks the object.
    """
    before = (np.zeros((0, 2)), np.zeros(0)) if prompts is None else (prompts.points, prompts.labels)
    on_object, beside = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (foreground, background))
    points = np.concatenate([before[0], on_object, beside])
    labels = np.concatenate([before[1], np.full(len(on_object), FOREGROUND), np.full(len(beside), BACKGROUND)])
    return Prompts(points, labels) if prompts is None else replace(prompts, points=points, labels=labels)


def point_beside(mask: np.ndarray, area: np.ndarray) -> tuple[float, float] | None:
    """Return the innermost point (x, y) of a mask's part within an area beside the object; None if it has none there.

    Both are ``(H, W)`` bool.
    """
    covered = mask & area
    if not covered.any():
        return None
    row, column = innermost(covered)
    return float(column), float(row)


def _middle_line(drawn: np.ndarray) -> np.ndarray:
    """Return the indices of the pixels on the line through the middle of what is drawn."""
    from skimage.morphology import skeletonize  # takes long to import

    return np.argwhere(skeletonize(drawn))

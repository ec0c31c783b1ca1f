"""Corrections of a mask on a slice, by points."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from lib.sam.logits_grid import LogitsGrid, depth, touching
from lib.sam.models.registry import PromptKind
from lib.sam.packed_mask import extent
from lib.sam.prompts import BACKGROUND, FOREGROUND, Prompts
from lib.sam.strokes import lasso_prompts, with_points

_REACH = 2.0
"""Of a correction, as a multiple of its point's distance to the mask's border; and so many pixels more."""


def correction_prompts(
    grid: LogitsGrid, logits: np.ndarray, background: np.ndarray, kinds: Sequence[PromptKind]
) -> Prompts | None:
    """Return prompts that remove background points from a mask.

    SAM models also need a foreground point: it is put deep inside the mask and far from the background points.

    Args:
        grid: Of the slice.
        logits: ``(S, S)`` of the mask.
        background: ``(N, 2)`` points, XY.
        kinds: Of prompts that the model was trained with.

    Returns:
        None if nothing of the mask remains.
    """
    cell = _roomiest(grid.mask(logits), [grid.cell((x, y)) for x, y in background])
    if cell is None:
        return None
    prompts = with_points(None, [grid.point(cell)], background)
    return replace(prompts, mask_logits=logits) if "mask" in kinds else prompts


def start_prompts(
    start: np.ndarray, foreground: ArrayLike, background: ArrayLike, kinds: Sequence[PromptKind]
) -> Prompts:
    """Return the prompts for the object that a mask shows, about or exactly but for what points correct.

    As in :func:`correction_prompts`, what is removed needs a foreground point, and a box would hold it.

    Args:
        start: The mask, ``(H, W)`` bool, not empty.
        foreground: Points on the object, a list of XY.
        background: Points beside it, likewise.
        kinds: Of prompts that the model was trained with.
    """
    on_object, beside = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in (foreground, background))
    if len(beside) and not len(on_object):
        pixel = _roomiest(start, [(y, x) for x, y in beside])
        if pixel is not None:
            return replace(with_points(None, [pixel[::-1]], beside), area=start)
    prompts = with_points(lasso_prompts(start, kinds), on_object, beside)
    return prompts.correcting(start) if "box" in kinds else prompts


def _roomiest(mask: np.ndarray, beside: Iterable[tuple[float, float]]) -> tuple[int, int] | None:
    """Return the (row, column) deep in a mask and far from places beside the object; None if there is no room."""
    rows, columns = extent(np.any(mask, axis=1)), extent(np.any(mask, axis=0))
    room = depth(mask[rows, columns])
    down, right = np.ogrid[rows, columns]
    for y, x in beside:
        room = np.minimum(room, np.hypot(down - y, right - x))
    if not room.size or room.max() < 1:
        return None
    row, column = np.unravel_index(int(np.argmax(room)), room.shape)
    return int(row) + rows.start, int(column) + columns.start


def corrected(start: np.ndarray, answer: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a mask with what an answer changes of it where the points ask for it.

    A point on the object beside the mask adds to it, one on the mask but beside the object takes away from it; how far
    it is from the mask's border says how far: up to about twice as far, as one clicks in the middle of what is wrong.
    What is taken away is of the piece that was clicked on.

    Args:
        start: The mask, ``(H, W)`` bool.
        answer: What a model answers to the points, likewise.
        points: ``(N, 2)``, XY.
        labels: ``(N,)``, 1 for a point on the object, 0 for one beside it.
    """
    columns, rows = np.clip(np.round(points).astype(int), 0, np.array(start.shape[::-1]) - 1).T
    mask = start
    for label, wrong in ((FOREGROUND, ~start), (BACKGROUND, start)):
        clicked = np.zeros_like(start)
        clicked[rows[labels == label], columns[labels == label]] = True
        clicked &= wrong
        if not clicked.any():
            continue
        distance = ndimage.distance_transform_edt(wrong)
        changes = distance <= _REACH * distance[clicked].max() + _REACH
        if label == BACKGROUND:
            changes &= touching(start, clicked)
        mask = np.where(changes & wrong, answer, mask)
    return mask

"""Pictures of the worst and the best answers: truth green, answer orange; of a volume, three planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from evaluation.cases import Case
from evaluation.report import Result, is_shown, rows_of
from evaluation.volumes import VolumeCase
from lib.transforms.window import volume_pictures

_TRUTH, _ANSWER = (0, 158, 115), (230, 159, 0)
_SIDE = 320
"""Of a picture in pixels."""


def save_pictures(results: Sequence[Result], folder: Path, count: int) -> None:
    """Draw the worst and the best answers of every row that a model gave, one beside the other."""
    for row, found in rows_of(results).items():
        if not is_shown(row) or ":" in row or count == 0:
            continue
        ordered = sorted(found, key=lambda result: result.figures.dice)
        for which, chosen in (("worst", ordered[:count]), ("best", ordered[::-1][:count])):
            sheet = np.concatenate([_tile(result) for result in chosen], axis=1)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet).save(folder / f"{row.replace(', ', ' ').replace(' ', '-')}-{which}.png")


def _tile(result: Result) -> np.ndarray:
    """Return one answer's picture with its Dice: ``(320, 320, 3)`` uint8, or three of them in a column."""
    if isinstance(result.case, Case):
        shown = _outlined(result.case.frame, result.case.truth, result.mask, (1.0, 1.0))
    else:
        shown = _planes(result.case, result.mask)
    labelled = Image.fromarray(shown)
    ImageDraw.Draw(labelled).text((6, 4), f"{result.case.name}  {result.figures.dice:.3f}", fill=(255, 255, 255))
    return np.array(labelled)


def _planes(case: VolumeCase, mask: np.ndarray) -> np.ndarray:
    """Return the planes through the middle of the object's largest slice, along all three axes."""
    picture, _ = volume_pictures(case.image, case.largest)
    volume = np.stack([picture(k) for k in range(len(case.truth))])
    k = case.largest
    rows, columns = np.nonzero(case.truth[k])
    middle = k, int(np.median(rows)), int(np.median(columns))
    planes = []
    for axis in range(3):
        one, other = (case.spacing[each] for each in range(3) if each != axis)
        frame, truth, answer = (np.take(each, middle[axis], axis=axis) for each in (volume, case.truth, mask))
        planes.append(_outlined(frame, truth, answer, (one, other)))
    return np.concatenate(planes)


def _outlined(frame: np.ndarray, truth: np.ndarray, mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Return the object and its surroundings, enlarged, with both borders.

    Args:
        frame: ``(H, W, 3)`` uint8.
        truth: ``(H, W)`` bool, not empty.
        mask: ``(H, W)`` bool.
        spacing: Distances of rows and of columns, in any unit.
    """
    used = np.argwhere(truth | mask)
    centre = (used.min(0) + used.max(0)) / 2 * spacing
    half = max(float((np.ptp(used, axis=0) * spacing).max()) * 0.75, 24 * min(spacing))
    window = tuple(
        slice(max(0, round((middle - half) / step)), min(extent, max(1, round((middle + half) / step))))
        for middle, step, extent in zip(centre, spacing, truth.shape, strict=True)
    )
    picture = Image.fromarray(np.ascontiguousarray(frame[window])).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    shown = np.array(picture)
    for part, colour in ((truth[window], _TRUTH), (mask[window], _ANSWER)):
        whole = Image.fromarray(np.ascontiguousarray(part))
        enlarged = np.array(whole.resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
        shown[enlarged & ~binary_erosion(enlarged, iterations=2)] = colour
    return shown

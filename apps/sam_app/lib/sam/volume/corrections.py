"""Prompts that correct a mask found on a slice."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lib.sam.logits_grid import LogitsGrid, depth
from lib.sam.models.registry import PromptKind
from lib.sam.prompts import BACKGROUND, FOREGROUND, Prompts


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
    mask = grid.mask(logits)
    not_background = np.ones(grid.shape, dtype=bool)
    for point in background:
        not_background[grid.cell((point[0], point[1]))] = False
    room = np.minimum(depth(mask), ndimage.distance_transform_edt(not_background))
    if room.max() < 1:
        return None
    row, column = np.unravel_index(int(np.argmax(room)), room.shape)
    return Prompts(
        points=np.array([grid.point((int(row), int(column))), *background]),
        labels=np.array([FOREGROUND] + [BACKGROUND] * len(background)),
        mask_logits=logits if "mask" in kinds else None,
    )

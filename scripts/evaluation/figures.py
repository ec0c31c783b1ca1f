"""How alike two masks are, by MONAI's metrics, and how sure a mean of such figures is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Figures:
    """One answer against the truth.

    Args:
        dice: Dice coefficient, 0 to 1.
        iou: Intersection over union, 0 to 1.
        nsd: Normalised surface Dice (Nikolov et al. 2021, arXiv:1809.04430): the part of both borders that lies
            within the tolerance of the other.
    """

    dice: float
    iou: float
    nsd: float


def compare(answer: np.ndarray, truth: np.ndarray, *, tolerance: float, spacing: tuple[float, ...] | None) -> Figures:
    """The figures of an answer.

    Args:
        answer: ``(H, W)`` or ``(K, H, W)`` bool; may be empty.
        truth: Likewise, not empty.
        tolerance: Of the border, in millimetres, or in pixels where there is no spacing.
        spacing: Distances along the axes in millimetres.
    """
    from monai.metrics import compute_dice, compute_iou, compute_surface_dice  # here, as it takes seconds

    if not answer.any():  # MONAI warns and answers NaN
        return Figures(0.0, 0.0, 0.0)
    used = np.argwhere(answer | truth)
    part = tuple(slice(low, high + 1) for low, high in zip(used.min(0), used.max(0), strict=True))
    answer, truth = (np.pad(mask[part], 1) for mask in (answer, truth))
    y_pred, y = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (answer, truth))
    nsd = compute_surface_dice(y_pred, y, [tolerance], include_background=True, spacing=spacing)
    return Figures(float(compute_dice(y_pred, y)), float(compute_iou(y_pred, y)), float(nsd))


def mean_with_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """The mean and its 95 % interval by 2,000 bootstrap samples (percentile method); of one value all three are it."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2 or np.ptp(array) == 0:
        return float(array.mean()), float(array.mean()), float(array.mean())
    interval = bootstrap(
        (array,), np.mean, n_resamples=2000, method="percentile", random_state=np.random.default_rng(seed)
    ).confidence_interval
    return float(array.mean()), float(interval.low), float(interval.high)


def correlation(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Pearson's, of predicted and true IoU; None if either does not vary."""
    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return None
    return float(np.corrcoef(predicted, true)[0, 1])

"""Losses of mask logits and predicted quality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATE_WEIGHT = 0.6
IDLE_WEIGHT = 0.05
QUALITY_WEIGHT = 0.5
LARGE_AREA = 16384
"""Surroundings of this many pixels or more have the weight 1/2 in all."""


def near_weights(targets: Tensor) -> Tensor:
    """Return pixel weights (B, H, W): more on the object and its surroundings than on the far background.

    The surroundings are the tight box, widened by a quarter of its sides and by 3 pixels. Without a weighting the
    far background outweighs small objects; weights that sum to the same for all sizes would teach the model to
    answer an ambiguous click with the smallest object there is. The sum over the far background is 1/2; that over
    the surroundings too if they have LARGE_AREA or more, else each of their pixels weighs the same whatever the
    object.
    """
    height, width = targets.shape[-2:]
    near = torch.ones_like(targets, dtype=torch.float32)
    for axis, extent in ((-2, height), (-1, width)):
        index = torch.arange(extent, device=targets.device, dtype=torch.float32)
        used = targets.any(-1 if axis == -2 else -2)
        low = torch.where(used, index, float(extent)).amin(-1, keepdim=True)
        high = torch.where(used, index, -1.0).amax(-1, keepdim=True)
        margin = 0.25 * (high - low) + 3
        inside = ((index >= low - margin) & (index <= high + margin)).float()
        near = near * (inside[..., :, None] if axis == -2 else inside[..., None, :])
    far = 1 - near
    total_near = near.sum((-2, -1), keepdim=True)
    total_far = far.sum((-2, -1), keepdim=True).clamp_min(1)
    return 0.5 * near / total_near.clamp_min(LARGE_AREA) + 0.5 * far / total_far


def mask_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted cross-entropy plus soft Dice loss, and the IoU of the thresholded masks.

    Args:
        logits: float32 (B, n, H, W).
        targets: float32 (B, 1, H, W), the part of each pixel that is the object's.
        weights: float32 (B, 1, H, W), from `near_weights`.

    Returns:
        Loss (B, n) and IoU (B, n); the IoU has no gradient.
    """
    entropy = (F.softplus(logits) - logits * targets).mul(weights).sum((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * targets).sum((-2, -1))
    area = targets.sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + area + 1)
    with torch.no_grad():
        answer = (logits > 0).float()
        whole = (targets > 0.5).float()
        shared = (answer * whole).sum((-2, -1))
        iou = shared / (answer.sum((-2, -1)) + whole.sum((-2, -1)) - shared).clamp_min(1)
    return entropy + dice, iou


def total_loss(masks: Tensor, quality: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the training loss of a batch and its parts.

    Mask 0 must be the object. Of the three candidates the best one is trained, and the others a little, so
    that none dies.

    Args:
        masks: Logits (B, 4, H, W).
        quality: Predicted IoU (B, 4).
        targets: float32 (B, H, W), the part of each pixel that is the object's.
    """
    losses, iou = mask_loss(masks.float(), targets[:, None], near_weights(targets > 0)[:, None])
    single, several = losses[:, 0], losses[:, 1:]
    best = several.amin(1)
    candidates = best + IDLE_WEIGHT * several.mean(1)
    error = F.mse_loss(quality.float(), iou)
    loss = single.mean() + CANDIDATE_WEIGHT * candidates.mean() + QUALITY_WEIGHT * error
    parts = {"single": single.mean(), "candidates": best.mean(), "quality": error, "iou": iou[:, 0].mean()}
    return loss, {name: value.detach() for name, value in parts.items()}

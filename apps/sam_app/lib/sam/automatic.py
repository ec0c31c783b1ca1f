"""Segmentation without prompts: decode a grid of points, keep the good masks, resolve overlaps.

The method is that of SAM's automatic mask generator (Kirillov et al. 2023, arXiv:2304.02643, appendix B), with its
helpers from ``segment_anything.utils.amg``; candidates are rated at low resolution, so that only those that are kept
are resized to the image's size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score
from torchvision.ops import nms

from lib.base.clock import current_clock
from lib.sam.embeddings.cache import Embedding
from lib.sam.predictor import Prediction, Predictor
from lib.sam.prompts import PromptError, Prompts


@dataclass(frozen=True)
class GridOptions:
    """Options for the points and for which masks are kept, in addition to the model's bounds (see ``ModelSpec``).

    Args:
        points_per_side: Points along each side of the image. SAM's generator has 32; 16 take a quarter of the time.
        max_overlap: Box IoU above which the lower-scored of two masks is dropped.
        min_area: Smallest area of a mask, and of its part that smaller ones leave visible, as a fraction of the
            image's.
        max_area: Largest area of a mask, likewise.
        max_objects: At most this many masks are kept, by score.
    """

    points_per_side: int = 16
    max_overlap: float = 0.7
    min_area: float = 0.0005
    max_area: float = 0.9
    max_objects: int = 100


def segment_automatically(
    predictor: Predictor, embedding: Embedding, options: GridOptions | None = None
) -> list[Prediction]:
    """Return every object that a grid of points finds, largest first so that later ones can be painted on top.

    Args:
        predictor: The model.
        embedding: The image, from ``predictor.encode``.
        options: Points and bounds.

    Returns:
        One prediction per object, each with one candidate; empty if no mask is within the bounds.

    Raises:
        PromptError: If the model does not take points.
        TimeLimitError: If the current clock's time is up.
    """
    options = options or GridOptions()
    spec = predictor.spec
    if not spec.takes_points:
        raise PromptError(f"{spec.name} is for boxes alone; without prompts a model that takes points is needed")
    height, width = embedding.image_size
    grid = build_point_grid(options.points_per_side) * [width, height]
    points = [Prompts(points=[xy], labels=[1]).within(width, height) for xy in grid]  # type: ignore[arg-type]

    logits_kept: list[torch.Tensor] = []
    scores_kept: list[torch.Tensor] = []
    together = predictor.runtime.decode_batch
    for start in range(0, len(points), together):
        with current_clock().stage("decode"):
            logits, scores = predictor.decode_logits(embedding, points[start : start + together], multimask=True)
        logits, scores = logits.flatten(0, 1), scores.flatten()
        stability = calculate_stability_score(logits, 0.0, 1.0)
        good = (scores >= spec.min_score) & (stability >= spec.min_stability)
        logits_kept.append(logits[good])
        scores_kept.append(scores[good])
    logits, scores = torch.cat(logits_kept), torch.cat(scores_kept)
    if not len(scores):
        return []

    boxes = batched_mask_to_box(logits > 0).float()
    keep = nms(boxes, scores, options.max_overlap)
    predictions: list[Prediction] = []
    for index in keep.tolist():
        current_clock().check()
        restored = predictor.restore(
            embedding.image_size, scores[index][None].cpu().numpy(), logits[index][None].cpu().numpy()
        )
        if options.min_area <= restored.packed[0].area / (height * width) <= options.max_area:
            predictions.append(restored)
        if len(predictions) == options.max_objects:
            break
    predictions.sort(key=lambda prediction: -prediction.packed[0].area)
    return _without_hidden(predictions, options.min_area * height * width)


def _without_hidden(predictions: list[Prediction], min_pixels: float) -> list[Prediction]:
    """Drop predictions that are hidden when all are painted in order, each on top of the previous ones."""
    seen: list[Prediction] = []
    covered = np.zeros(predictions[0].packed[0].shape if predictions else (0, 0), dtype=bool)
    for prediction in reversed(predictions):
        mask = prediction.packed[0]
        part, below = mask.part, covered[mask.rows, mask.columns]
        if np.count_nonzero(part & ~below) >= max(1, min_pixels):
            seen.append(prediction)
            below |= part
    return seen[::-1]

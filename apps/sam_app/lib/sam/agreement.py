"""How well the masks of a faster form of a model agree with those of its float32 networks, on the same prompts."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from segment_anything.utils.amg import build_point_grid

import lib.sam.volume.sam2_video  # noqa: F401 - registers how SAM 2 follows an object
from lib.sam.embeddings.cache import Embedding
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.volume.propagation import VolumePrompts, propagate

_SLICES = 3
"""Slices of a volume in which an object is followed for the comparison."""

_BOX_SHARE = 0.25
"""Side of a box used for the comparison, as a share of the image's."""


@dataclass(frozen=True)
class MaskAgreement:
    """Comparison of a faster form of a model with its float32 form.

    Args:
        masks: Number of masks compared, from points on a grid and from boxes around them; and, of a model with a
            memory, of objects that it follows.
        mean_iou: Mean IoU of a mask with the float32 one; the smaller of that from prompts and that by following.
        worst_iou: 5th percentile of the IoU.
        embedding_difference: Mean relative L2 distance of the embeddings.
        seconds, float32_seconds: Median time of an encode, each image encoded by both in turn.
    """

    masks: int
    mean_iou: float
    worst_iou: float
    embedding_difference: float
    seconds: float
    float32_seconds: float


def compare_masks(
    predictor: Predictor, float32: Predictor, images: Sequence[np.ndarray], *, points_per_side: int
) -> MaskAgreement:
    """Encode each image by both predictors, decode the same prompts, and compare.

    Args:
        predictor: The faster form.
        float32: The same model in float32.
        images: ``(H, W, 3)`` uint8 images after windowing.
        points_per_side: Of the grid of points; as many boxes are used, and no points for a model that takes none.
    """
    overlaps: list[float] = []
    followed: list[float] = []
    differences: list[float] = []
    times: list[tuple[float, float]] = []
    for image in images:
        height, width = image.shape[:2]
        inputs = float32.model_input(image)
        (ours, seconds), (theirs, float32_seconds) = _timed_encode(predictor, inputs), _timed_encode(float32, inputs)
        times.append((seconds, float32_seconds))
        differences.append(float((ours[0] - theirs[0]).norm() / theirs[0].norm()))
        prompts = _prompts(width, height, points_per_side, with_points=float32.spec.takes_points)
        predictions = [
            one.decode(Embedding(levels[0], image_size=(height, width), key="", finer=levels[1:]), prompts)
            for one, levels in ((predictor, ours), (float32, theirs))
        ]
        for one, other in zip(*predictions, strict=True):
            overlaps += _overlap(one.masks[0], other.masks[0])
        if float32.remembers:
            followed += _overlaps_of_followed(predictor, float32, image)
    return MaskAgreement(
        masks=len(overlaps + followed),
        mean_iou=min(float(np.mean(each)) for each in (overlaps, followed) if each) if overlaps else 0.0,
        worst_iou=float(np.percentile(overlaps + followed, 5)) if overlaps else 0.0,
        embedding_difference=statistics.fmean(differences),
        seconds=statistics.median(pair[0] for pair in times),
        float32_seconds=statistics.median(pair[1] for pair in times),
    )


def _overlap(mask: np.ndarray, other: np.ndarray) -> list[float]:
    """Return the IoU of two masks; nothing if both are empty."""
    union = np.count_nonzero(mask | other)
    return [np.count_nonzero(mask & other) / union] if union else []


def _overlaps_of_followed(predictor: Predictor, float32: Predictor, image: np.ndarray) -> list[float]:
    """Return the IoUs of the masks of an object followed by memory through slices that show the image, moved."""
    height, width = image.shape[:2]
    box = np.array([0.3 * width, 0.3 * height, 0.7 * width, 0.7 * height])
    prompts = VolumePrompts({0: Prompts(box=box)}, {}, range(_SLICES))

    def frame(k: int) -> np.ndarray:
        return np.roll(image, k * width // 64, axis=1)

    ours, theirs = (propagate(one, frame, prompts).found for one in (predictor, float32))
    nothing = np.zeros((height, width), dtype=bool)
    pairs = [
        [found[k].mask if k in found else nothing for found in (ours, theirs)] for k in sorted({*ours, *theirs} - {0})
    ]
    return [overlap for pair in pairs for overlap in _overlap(*pair)]


def section_images(count: int, side: int = 256) -> list[np.ndarray]:
    """Return images that look like sections of a body: organs with soft borders in a bright outline, and noise.

    Args:
        count: Their number; they are the same in each call.
        side: Their height and width in pixels.

    Returns:
        ``(side, side, 3)`` uint8 images.
    """
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    images = []

    def ellipse(x: float, y: float, width: float, height: float) -> Any:
        return np.less(np.hypot((columns - x) / width, (rows - y) / height), 1)

    for seed in range(count):
        random = np.random.default_rng(seed)
        grey = np.where(ellipse(0.5, 0.5, 0.46, 0.36), 0.75, 0.02)
        grey[ellipse(0.5, 0.5, 0.43, 0.33)] = 0.4
        for x, y in random.uniform(0.25, 0.75, (9, 2)):
            width, height = random.uniform(0.03, 0.14, 2)
            grey[ellipse(x, y, width, height)] = random.uniform(0.1, 0.95)
        texture = gaussian_filter(random.normal(0, 0.25, grey.shape), 3)
        grey = gaussian_filter(grey, 0.8) + texture + random.normal(0, 0.02, grey.shape)
        images.append(np.repeat((255 * grey.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2))
    return images


def _timed_encode(predictor: Predictor, inputs: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], float]:
    started = time.perf_counter()
    levels = predictor.runtime.encode(inputs)
    return levels, time.perf_counter() - started


def _prompts(width: int, height: int, points_per_side: int, *, with_points: bool) -> list[Prompts]:
    """Return prompts for a grid of points, and for a box around each."""
    points = build_point_grid(points_per_side) * [width, height]
    half = np.array([width, height]) * _BOX_SHARE / 2
    boxes = [np.concatenate([np.maximum(xy - half, 0), np.minimum(xy + half, [width, height])]) for xy in points]
    return [
        *(Prompts.from_clicks([xy.tolist()]) for xy in points if with_points),
        *(Prompts.from_clicks(box=box.tolist()) for box in boxes),
    ]

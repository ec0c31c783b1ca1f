"""Measure a model: on held-out scenes, and on a folder of images with masks.

A folder holds ``images/<name>.png`` and ``masks/<name>_<object>_<number>.png``; non-zero pixels are the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .batches import draw_batch
from .model import sam_tiny
from .prompts import centre_point, tight_box
from .scenes import Scenes
from .shapes import Mask


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1))


@dataclass(frozen=True)
class ObjectScore:
    """Dice of one object, and baselines that know the box alone.

    Attributes:
        name: File name of the mask without its ending.
        area: Pixels of the mask.
        box: Dice of mask 0 for the tight box.
        point: Dice of mask 0 for the centre of the largest inscribed circle.
        point_best: Dice of the candidate with the highest predicted IoU for that point.
        holds: Mask 0 for the point holds the point.
        full_box: Dice of the filled box.
        ellipse: Dice of the ellipse inscribed in the box.
    """

    name: str
    area: int
    box: float
    point: float
    point_best: float
    holds: bool
    full_box: float
    ellipse: float


def prepare(model: sam_tiny.SamTiny, image: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
    """Return an image (H, W) as model input (1, 3, S, S), and its scaled height and width."""
    height, width = image.shape
    scale = model.img_size / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    x = torch.from_numpy(image.astype(np.float32))[None, None]
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    device = model.pixel_mean.device
    return model.preprocess(x.expand(-1, 3, -1, -1).to(device)), size


def restore(logits: Tensor, side: int, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Scale logits (B, n, 256, 256) to the original image as SAM does; the result is (B, n, H, W)."""
    logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(logits[..., : size[0], : size[1]], original, mode="bilinear", align_corners=False)


@torch.no_grad()
def score_object(
    model: sam_tiny.SamTiny, embedding: Tensor, size: tuple[int, int], mask: Mask, name: str
) -> ObjectScore:
    """Prompt a model for one object of an encoded image and compare its answers with the mask."""
    original = (mask.shape[0], mask.shape[1])
    device = embedding.device
    scale = torch.tensor([size[1] / original[1], size[0] / original[0]], device=device)
    pe = model.prompt_encoder.get_dense_pe()
    box = tight_box(mask)
    boxes = torch.from_numpy(box).to(device)[None] * scale.repeat(2)
    masks, _ = model.mask_decoder(embedding, pe, *model.prompt_encoder(None, boxes, None), False)
    by_box = (restore(masks, model.img_size, size, original)[0, 0] > 0).cpu().numpy()

    x, y = centre_point(mask)
    coords = torch.tensor([[[x, y]]], device=device) * scale
    points = (coords, torch.ones(1, 1, dtype=torch.long, device=device))
    sparse, dense = model.prompt_encoder(points, None, None)
    masks, quality = model.mask_decoder.predict_masks(embedding, pe, sparse, dense)
    answers = (restore(masks, model.img_size, size, original)[0] > 0).cpu().numpy()
    best = 1 + int(quality[0, 1:].argmax())

    rows, columns = np.mgrid[0 : original[0], 0 : original[1]] + 0.5
    filled = (columns > box[0]) & (columns < box[2]) & (rows > box[1]) & (rows < box[3])
    u = (columns - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    v = (rows - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    return ObjectScore(
        name=name,
        area=int(mask.sum()),
        box=dice(by_box, mask),
        point=dice(answers[0], mask),
        point_best=dice(answers[best], mask),
        holds=bool(answers[0][int(y), int(x)]),
        full_box=dice(filled, mask),
        ellipse=dice(u * u + v * v <= 1, mask),
    )


@torch.no_grad()
def score_folder(model: sam_tiny.SamTiny, folder: Path) -> list[ObjectScore]:
    """Score every mask of a folder at the images' own resolution."""
    from PIL import Image

    scores = []
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as picture:
            image = np.asarray(picture.convert("L"))
        x, size = prepare(model, image)
        embedding = model.image_encoder(x)
        for mask_path in sorted((folder / "masks").glob(f"{path.stem}_*.png")):
            with Image.open(mask_path) as picture:
                mask = np.asarray(picture.convert("L")) > 0
            if mask.any():
                scores.append(score_object(model, embedding, size, mask, mask_path.stem))
    return scores


def summary(scores: list[ObjectScore]) -> dict[str, float]:
    """Return the means of the scores, and how many answers to a point hold the point."""
    result = {
        name: round(float(np.mean([getattr(score, name) for score in scores])), 4)
        for name in ("box", "point", "point_best", "full_box", "ellipse")
    }
    return {"objects": len(scores), **result, "holds_point": sum(score.holds for score in scores)}


@torch.no_grad()
def score_scenes(model: sam_tiny.SamTiny, scenes: Scenes, *, count: int, prompts: int = 6) -> dict[str, float]:
    """Return mean Dice on held-out scenes for tight boxes and for centre points, always the same ones."""
    rng = np.random.default_rng(12345)
    device = model.pixel_mean.device
    pe = model.prompt_encoder.get_dense_pe()
    totals: dict[str, list[float]] = {"box": [], "point": [], "point_oracle": []}
    mean, std = float(model.pixel_mean[0]), float(model.pixel_std[0])
    for _ in range(count):
        batch = draw_batch(rng, scenes, images=1, prompts=prompts, mean=mean, std=std, augmented=False)
        embedding = model.image_encoder(batch.images.to(device))
        targets = batch.targets[0].numpy()
        boxes = torch.from_numpy(np.stack([tight_box(mask) for mask in targets])).to(device)
        coords = torch.tensor([[centre_point(mask)] for mask in targets], device=device)
        points = (coords, torch.ones(prompts, 1, dtype=torch.long, device=device))
        by_box, _ = model.mask_decoder(embedding, pe, *model.prompt_encoder(None, boxes, None), False)
        sparse, dense = model.prompt_encoder(points, None, None)
        by_point, _ = model.mask_decoder.predict_masks(embedding, pe, sparse, dense)
        box_masks, point_masks = (by_box > 0).cpu().numpy(), (by_point > 0).cpu().numpy()
        for p, target in enumerate(targets):
            totals["box"].append(dice(box_masks[p, 0], target))
            totals["point"].append(dice(point_masks[p, 0], target))
            totals["point_oracle"].append(max(dice(candidate, target) for candidate in point_masks[p, 1:]))
    return {name: round(float(np.mean(values)), 4) for name, values in totals.items()}

"""Batches for training: scenes with augmentation, their objects and the prompts for them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .canvas import MIN_AREA
from .prompts import MAX_POINTS, Prompt, correct, first_prompt
from .scenes import Scenes
from .shapes import Rng


@dataclass
class Batch:
    """I images with P prompted objects each.

    Attributes:
        images: float32 (I, 3, S, S), normalised.
        targets: float32 (I, P, 256, 256), the part of each pixel that is the object's.
        coords: float32 (I, P, K, 2).
        labels: int64 (I, P, K).
        boxes: float32 (I, P, 4), NaN without a box.
        logits: float32 (I, P, 256, 256), the earlier answer, zero where there is none.
    """

    images: Tensor
    targets: Tensor
    coords: Tensor
    labels: Tensor
    boxes: Tensor
    logits: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, images: Tensor) -> Batch:
        """Return the batch of some of the images."""
        return Batch(**{name: tensor[images] for name, tensor in self.tensors().items()})

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @staticmethod
    def join(batches: list[Batch]) -> Batch:
        """Return the images of several batches in one."""
        parts = [batch.tensors() for batch in batches]
        return Batch(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def augment(
    rng: Rng, image: NDArray[np.uint8], size: tuple[int, int], masks: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], tuple[int, int], NDArray[np.bool_]]:
    """Flip and transpose a scene, and vary its contrast, noise and colour.

    Args:
        rng: Source of randomness.
        image: (S, S).
        size: Valid height and width.
        masks: (P, S, S).

    Returns:
        Image (3, S, S) in 0..255, valid size, masks.
    """
    height, width = size
    image, masks = image.copy(), masks.copy()
    for axis, extent in ((0, height), (1, width)):
        if rng.random() < 0.5:
            valid = (slice(0, extent), slice(None)) if axis == 0 else (slice(None), slice(0, extent))
            image[valid] = np.flip(image[valid], axis).copy()
            masks[:, valid[0], valid[1]] = np.flip(masks[:, valid[0], valid[1]], axis + 1).copy()
    if rng.random() < 0.5:
        image, masks, (height, width) = image.T, masks.transpose(0, 2, 1), (width, height)
    colour = np.repeat(image[None].astype(np.float32), 3, 0)
    if rng.random() < 0.5:
        colour = colour * rng.uniform(0.6, 1.15) + rng.uniform(-10, 40)
    if rng.random() < 0.06:
        colour = 255 - colour
    if rng.random() < 0.06:
        colour = colour * rng.uniform(0.4, 1.1, (3, 1, 1)).astype(np.float32)
    if rng.random() < 0.2:
        colour = colour + rng.standard_normal(image.shape).astype(np.float32) * rng.uniform(0, 8)
    return np.clip(colour, 0, 255).astype(np.float32), (height, width), masks


def zoom(
    rng: Rng, image: NDArray[np.uint8], size: tuple[int, int], masks: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], tuple[int, int], NDArray[np.bool_], float]:
    """Take a part of a scene, as an image of a coarser resolution may show it, and enlarge it to the scene's size.

    Objects of which too little is left are replaced by others. Arguments as for `augment`.

    Returns:
        Image, valid size, masks, and the side of a pixel of the coarser image.
    """
    side = image.shape[0]
    part = rng.uniform(0.45, 1) if rng.random() < 0.5 else 1.0
    height, width = (max(int(extent * part), 8) for extent in size)
    top, left = (int(rng.integers(extent - kept + 1)) for extent, kept in zip(size, (height, width), strict=True))
    coarse = int(side * np.exp(rng.uniform(np.log(0.27), 0))) if rng.random() < 0.6 else side
    if part == 1 and coarse == side:
        return image, size, masks, 1.0
    pixel = side / coarse

    def resampled(planes: Tensor, mode: str, longest: int) -> Tensor:
        scale = longest / max(planes.shape[-2:])
        shape = [max(round(extent * scale), 1) for extent in planes.shape[-2:]]
        options = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
        return F.interpolate(planes, size=shape, mode=mode, **options)

    kept = (slice(top, top + height), slice(left, left + width))
    planes = torch.from_numpy(masks[:, kept[0], kept[1]].astype(np.float32))[None]
    planes = resampled(planes, "bilinear", coarse) > 0.5
    enough = planes[0].sum((1, 2)) * pixel**2 >= MIN_AREA
    if not enough.any():
        return image, size, masks, 1.0
    order = torch.cat([torch.nonzero(enough)[:, 0], torch.nonzero(~enough)[:, 0]])
    places = torch.arange(len(order)) % int(enough.sum())
    planes = resampled(planes[:, order[places]].float(), "nearest", side) > 0.5
    picture = torch.from_numpy(image[kept].astype(np.float32))[None, None]
    picture = resampled(resampled(picture, "bilinear", coarse), "bilinear", side).round().clamp(0, 255)
    height, width = planes.shape[-2:]
    result, moved = np.zeros_like(image), np.zeros_like(masks)
    result[:height, :width] = picture[0, 0].numpy()
    moved[:, :height, :width] = planes[0].numpy()
    return result, (height, width), moved, pixel


def shrunk(masks: NDArray[np.bool_]) -> Tensor:
    """Return masks (P, S, S) as the part that is covered of each of 256 x 256 pixels, float32 (P, 256, 256)."""
    return F.avg_pool2d(torch.from_numpy(masks.astype(np.float32))[None], masks.shape[-1] // 256)[0]


def draw_batch(rng: Rng, scenes: Scenes, *, images: int, prompts: int, mean: float, std: float) -> Batch:
    """Return a batch of random scenes with first prompts for random objects.

    Args:
        rng: Source of randomness.
        scenes: Set to draw from.
        images: Scenes I to draw.
        prompts: Objects P per scene, with repetition in scenes that have fewer.
        mean: Subtracted from the intensities.
        std: Divides them then.
    """
    side = scenes.images.shape[-1]
    pictures = np.zeros((images, 3, side, side), np.float32)
    targets = torch.zeros(images, prompts, 256, 256)
    made: list[Prompt] = []
    for i, scene in enumerate(rng.integers(len(scenes), size=images)):
        count = int(scenes.starts[scene + 1] - scenes.starts[scene])
        which = rng.permutation(count)[:prompts]
        which = np.concatenate([which, rng.integers(count, size=prompts - len(which))])
        masks = scenes.object_masks(int(scene), which)
        size = (int(scenes.sizes[scene, 0]), int(scenes.sizes[scene, 1]))
        image, size, masks, pixel = zoom(rng, scenes.images[scene], size, masks)
        picture, (height, width), masks = augment(rng, image, size, masks)
        pictures[i, :, :height, :width] = (picture[:, :height, :width] - mean) / std
        targets[i] = shrunk(masks)
        made += [first_prompt(rng, mask, pixel) for mask in masks]
    return Batch(
        torch.from_numpy(pictures),
        targets,
        torch.from_numpy(np.stack([p.coords for p in made])).view(images, prompts, MAX_POINTS, 2),
        torch.from_numpy(np.stack([p.labels for p in made])).view(images, prompts, MAX_POINTS),
        torch.from_numpy(np.stack([p.box for p in made])).view(images, prompts, 4),
        torch.zeros(images, prompts, 256, 256),
    )


def next_round(rng: Rng, batch: Batch, logits: Tensor) -> Batch:
    """Return the batch as it stands after a corrective click on each answer, with the answer as mask prompt.

    Args:
        rng: Source of randomness.
        batch: The batch that was answered, on the CPU.
        logits: float (I, P, 256, 256), the answers.
    """
    scale = batch.images.shape[-1] / 256
    coords, labels = batch.coords.clone(), batch.labels.clone()
    for i in range(batch.images.shape[0]):
        for p in range(batch.targets.shape[1]):
            old = Prompt(batch.coords[i, p].numpy(), batch.labels[i, p].numpy(), batch.boxes[i, p].numpy())
            new = correct(rng, old, (batch.targets[i, p] > 0.5).numpy(), (logits[i, p] > 0).numpy(), scale)
            coords[i, p], labels[i, p] = torch.from_numpy(new.coords), torch.from_numpy(new.labels)
    return Batch(batch.images, batch.targets, coords, labels, batch.boxes, logits)

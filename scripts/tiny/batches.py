"""Batches for training: scenes with augmentation, their objects and the prompts for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.learning.simulated_user import MAX_POINTS, Prompt, correct, first_prompt

from .shapes import Rng
from .sources import Drawn, Source


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


def augment(rng: Rng, drawn: Drawn) -> tuple[NDArray[np.float32], tuple[int, int], NDArray[np.bool_]]:
    """Flip and transpose an image, and vary its contrast, noise and colour.

    Returns:
        Image (3, S, S) in 0..255, valid size, masks (P, S, S).
    """
    height, width = drawn.size
    image, masks = drawn.image.copy(), drawn.masks.copy()
    for axis, extent in ((1, height), (2, width)):
        if rng.random() < 0.5:
            valid = (slice(None), *(slice(0, extent) if axis == each else slice(None) for each in (1, 2)))
            image[valid] = np.flip(image[valid], axis).copy()
            masks[valid] = np.flip(masks[valid], axis).copy()
    if rng.random() < 0.5:
        image, masks, (height, width) = image.transpose(0, 2, 1), masks.transpose(0, 2, 1), (width, height)
    colour = image.astype(np.float32)
    is_coloured = bool((image[0] != image[1]).any())
    if is_coloured and rng.random() < 0.2:
        colour = np.repeat(colour.mean(0, keepdims=True), 3, 0)
    elif is_coloured and rng.random() < 0.3:
        colour = colour[rng.permutation(3)]
    if rng.random() < 0.3:
        colour = 255 * (colour / 255) ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.5:
        colour = colour * rng.uniform(0.6, 1.15) + rng.uniform(-10, 40)
    if rng.random() < 0.06:
        colour = 255 - colour
    if rng.random() < (0.3 if is_coloured else 0.06):
        colour = colour * rng.uniform(0.4, 1.1, (3, 1, 1)).astype(np.float32)
    if rng.random() < 0.2:
        colour = colour + rng.standard_normal(image.shape[1:]).astype(np.float32) * rng.uniform(0, 8)
    return np.clip(colour, 0, 255).astype(np.float32), (height, width), masks


def shrunk(masks: NDArray[np.bool_]) -> Tensor:
    """Return masks (P, S, S) as the part that is covered of each of 256 x 256 pixels, float32 (P, 256, 256)."""
    return F.avg_pool2d(torch.from_numpy(masks.astype(np.float32))[None], masks.shape[-1] // 256)[0]


def draw_batch(
    rng: Rng, sources: Sequence[Source], shares: Sequence[float], *, images: int, prompts: int, mean: float, std: float
) -> Batch:
    """Return a batch of random images with first prompts for random objects.

    Args:
        rng: Source of randomness.
        sources: Sets to draw from.
        shares: How often each is drawn from; they sum to 1.
        images: Images I to draw.
        prompts: Objects P per image, with repetition in images that have fewer.
        mean: Subtracted from the intensities.
        std: Divides them then.
    """
    pictures, targets, made = [], [], []
    for which in rng.choice(len(sources), size=images, p=shares):
        drawn = sources[which].draw(rng, prompts)
        picture, (height, width), masks = augment(rng, drawn)
        padded = np.zeros_like(picture)
        padded[:, :height, :width] = (picture[:, :height, :width] - mean) / std
        pictures.append(torch.from_numpy(padded))
        targets.append(shrunk(masks))
        made += [first_prompt(rng, mask, drawn.pixel) for mask in masks]
    return Batch(
        torch.stack(pictures),
        torch.stack(targets),
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

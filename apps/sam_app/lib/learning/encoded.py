"""Examples with their embeddings: each as it is, and a few times turned, scaled and shifted a little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.learning.examples import Example, Mask
from lib.sam.embeddings.cache import Embedding
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Predictor

VARIANTS = 6
"""Embeddings per example: the first is that of the picture as it is."""

TURN, SCALE, SHIFT, GAMMA = 15.0, 0.2, 0.08, 0.3
"""At most so many degrees, parts of the size, parts of the side, and powers of e."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The embedding of an example, and its masks; without its picture, and packed, as there are hundreds of them.

    Args:
        study: Whose it is.
        size: Height and width of the picture.
        packed: By label.
        levels: The embedding's levels, float16.
    """

    study: str
    size: tuple[int, int]
    packed: Mapping[str, PackedMask]
    levels: tuple[Tensor, ...]

    @classmethod
    def of(cls, example: Example, embedding: Embedding) -> Encoded:
        """Return an example with its embedding."""
        packed = {label: PackedMask.of(mask) for label, mask in example.masks.items()}
        return cls(example.study, embedding.image_size, packed, tuple(level.half() for level in embedding.levels))

    def mask(self, label: str) -> Mask:
        """Return where a label is, ``(H, W)`` bool."""
        return np.asarray(self.packed[label])

    def holds(self, label: str) -> bool:
        """Return whether a label is in the picture."""
        return self.packed[label].area > 0

    def features(self) -> tuple[Tensor, ...]:
        """Return the levels in float32."""
        return tuple(level.float() for level in self.levels)


def encode(
    predictor: Predictor, examples: Sequence[Example], *, variants: int, seed: int = 0
) -> Iterator[list[Encoded]]:
    """Yield the encoded variants of each example, so that the caller can say how far it is.

    Args:
        predictor: Of the model.
        examples: What was accepted.
        variants: How many of each; 1: as it is.
        seed: Of the variations.
    """
    rng = np.random.default_rng(seed)
    for example in examples:
        shown = [example, *(varied(rng, example) for _ in range(variants - 1))]
        yield [Encoded.of(one, predictor.encode(one.picture)) for one in shown]


def varied(rng: np.random.Generator, example: Example) -> Example:
    """Return an example turned, scaled and shifted a little, darker or brighter; never mirrored, as bodies are not."""
    height, width = example.picture.shape[:2]
    turn, scale = np.radians(rng.uniform(-TURN, TURN)), np.exp(rng.uniform(-SCALE, SCALE))
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
    matrix = [
        [cos, -sin * height / width, rng.uniform(-2, 2) * SHIFT],
        [sin * width / height, cos, rng.uniform(-2, 2) * SHIFT],
    ]
    grid = F.affine_grid(torch.tensor([matrix], dtype=torch.float32), [1, 1, height, width], align_corners=False)

    def moved(planes: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
        return F.grid_sample(torch.from_numpy(planes)[None], grid, mode=mode, align_corners=False)[0].numpy()

    picture = moved(np.ascontiguousarray(example.picture.transpose(2, 0, 1), np.float32), "bilinear")
    picture = 255 * (picture / 255).clip(0, 1) ** np.exp(rng.uniform(-GAMMA, GAMMA))
    masks: dict[str, Mask] = {}
    for label, mask in example.masks.items():
        masks[label] = moved(mask[None].astype(np.float32), "bilinear")[0] > 0.5
    return Example(example.study, picture.round().astype(np.uint8).transpose(1, 2, 0), masks)


def on_grid(predictor: Predictor, masks: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return masks ``(n, H, W)`` as the covered part of each cell of the low-resolution logits, ``(n, S, S)``."""
    grid = predictor.logits_grid(size)
    side = grid.side
    planes = torch.from_numpy(masks.astype(np.float32))[None]
    small = F.interpolate(planes, grid.shape, mode="area")[0]
    return F.pad(small, (0, side - small.shape[-1], 0, side - small.shape[-2]))

"""Examples with their embeddings: each as it is, and as often turned, scaled and shifted as time allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.learning.examples import Example, Mask
from lib.learning.fitting import computed
from lib.sam.embeddings.cache import Embedding
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Predictor

ENCODING_SHARE = 0.2
"""Of a training's time, in which variants of its pictures are encoded."""

MOST_VARIANTS = 16
"""Embeddings per example: the first is that of the picture as it is."""

MOST_EMBEDDINGS = 1800
"""Of a training, as they are all in memory: some 1.5 MiB each."""

ANY_TURN = 0.5
"""Share of the variants that are turned by any angle: how a heart lies in its picture is another in each patient."""

TURN, SCALE, SHIFT, GAMMA = 15.0, 0.3, 0.08, 0.4
"""At most so many degrees for the others, parts of the size, parts of the side, and powers of e."""


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


def encode(predictor: Predictor, examples: Sequence[Example]) -> list[Encoded]:
    """Return the examples with their embeddings."""
    return [Encoded.of(example, predictor.encode(example.picture)) for example in examples]


def encode_varied(
    predictor: Predictor, examples: Sequence[Example], *, seconds: float, seed: int = 0
) -> list[list[Encoded]]:
    """Return each example as it is and in variants: as many as the time allows, one at least.

    Args:
        predictor: Of the model.
        examples: What was accepted.
        seconds: Of computing, for the variants.
        seed: Of the variations.
    """
    rng = np.random.default_rng(seed)
    pictures = [[one] for one in encode(predictor, examples)]
    most = min(MOST_VARIANTS, max(2, MOST_EMBEDDINGS // max(1, len(examples))))
    until = computed() + seconds
    for turn in range(1, most):
        for index in rng.permutation(len(examples)):
            if turn > 1 and computed() > until:
                return pictures
            pictures[index] += encode(predictor, [varied(rng, examples[index])])
    return pictures


def varied(rng: np.random.Generator, example: Example) -> Example:
    """Return an example turned, scaled and shifted, darker or brighter.

    Only colour pictures are mirrored as well: a camera sees no side of the body, but a heart is never on the right.
    """
    height, width = example.picture.shape[:2]
    turn, scale = rng.uniform(-TURN, TURN), np.exp(rng.uniform(-SCALE, SCALE))
    if rng.random() < ANY_TURN:
        turn = rng.uniform(-180, 180)
    cos, sin = np.cos(np.radians(turn)) / scale, np.sin(np.radians(turn)) / scale
    side = -1 if rng.random() < 0.5 and is_coloured(example.picture) else 1
    matrix = [
        [side * cos, -sin * height / width, rng.uniform(-2, 2) * SHIFT],
        [side * sin * width / height, cos, rng.uniform(-2, 2) * SHIFT],
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


def is_coloured(picture: NDArray[np.uint8]) -> bool:
    """Return whether the channels of a picture ``(H, W, 3)`` differ."""
    return bool((picture != picture[..., :1]).any())


def on_grid(predictor: Predictor, masks: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return masks ``(n, H, W)`` as the covered part of each cell of the low-resolution logits, ``(n, S, S)``."""
    grid = predictor.logits_grid(size)
    side = grid.side
    planes = torch.from_numpy(masks.astype(np.float32))[None]
    small = F.interpolate(planes, grid.shape, mode="area")[0]
    return F.pad(small, (0, side - small.shape[-1], 0, side - small.shape[-2]))

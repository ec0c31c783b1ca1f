"""A label that is found without any prompt: a learned prompt, and the mask decoder that answers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.learning.encoded import Encoded
from lib.learning.fitting import Effort, Progress, fit, unwatched
from lib.learning.loss import mask_loss, near_weights
from lib.learning.pupil import Pupil
from lib.sam.models.overlay import LearnedPrompt

TOKENS = 4
"""Learned prompt tokens of a label."""

PICTURES = 4
"""Of a step."""

QUALITY_WEIGHT = 0.2


def learn(
    pupil: Pupil, label: str, pictures: Sequence[Sequence[Encoded]], effort: Effort, progress: Progress = unwatched
) -> tuple[LearnedPrompt, int]:
    """Teach a model to find a label without prompts.

    Prompts are learned as in prompt tuning (Lester et al. 2021, arXiv:2104.08691; for SAM: arXiv:2504.16739), together
    with the decoder, whose U-Net then finds the label by what it looks like and where it lies.

    Args:
        pupil: Its decoder is changed in place.
        label: What to find; pictures in which it is absent teach that nothing is an answer, too.
        pictures: The variants of each example in which somebody looked for the label.
        effort: How long.
        progress: Told after each step.

    Returns:
        The prompt, and the number of steps.

    Raises:
        ValueError: If the label is in none of the examples.
    """
    present = [variants for variants in pictures if variants[0].holds(label)]
    absent = [variants for variants in pictures if not variants[0].holds(label)]
    if not present:
        raise ValueError(f"{label} is in none of the examples")
    rng = np.random.default_rng(effort.seed)
    generator = torch.Generator().manual_seed(effort.seed)
    tokens, dense = untaught_prompt(pupil)
    tokens = nn.Parameter(tokens + 0.02 * torch.randn(tokens.shape, generator=generator))
    dense = nn.Parameter(dense)
    prompt = LearnedPrompt(tokens, dense)
    targets = {id(seen): pupil.targets(seen, [seen.mask(label)]).half() for one in pictures for seen in one}

    def draw() -> Encoded:
        side = absent if absent and rng.random() < min(0.5, len(absent) / len(pictures)) else present
        variants = side[int(rng.integers(len(side)))]
        return variants[int(rng.integers(len(variants)))]

    def loss() -> Tensor:
        losses = []
        for _ in range(PICTURES):
            seen = draw()
            masks, quality = pupil.find(seen, prompt)
            target = targets[id(seen)].float()[:, None]
            values, iou = mask_loss(masks[:, :1].float(), target, near_weights(target[:, 0] > 0)[:, None])
            right = iou if target.any() else (masks[:, :1] <= 0).all().float().expand_as(iou)
            losses.append(values.mean() + QUALITY_WEIGHT * F.mse_loss(quality[:, :1].float(), right))
        return torch.stack(losses).mean()

    with pupil.learning() as parameters:
        steps = fit([*parameters, tokens, dense], loss, effort, progress)
    return LearnedPrompt(tokens.detach(), dense.detach()), steps


def untaught_prompt(pupil: Pupil) -> tuple[Tensor, Tensor]:
    """Return the tokens, all zero, and dense embedding that say nothing, to begin with."""
    encoder = pupil.predictor.prompt_encoder
    nowhere = torch.zeros(1, 1, 2), torch.full((1, 1), -1)
    with torch.no_grad():
        sparse, dense = encoder(points=nowhere, boxes=None, masks=None)
    return torch.zeros(1, TOKENS, sparse.shape[-1]), dense.mean((2, 3), keepdim=True).clone()

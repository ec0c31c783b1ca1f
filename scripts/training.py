"""What the trainings of the bundled networks share."""

from __future__ import annotations

import argparse
import math
import textwrap
from pathlib import Path

import torch
from torch import nn

WARMUP = 100
"""Steps in which the learning rate rises to its highest."""


def add_real(parser: argparse.ArgumentParser) -> None:
    """Give a command the option of learning from folders of real images as well."""
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="images/NAME.png with masks/NAME_LABEL_NUMBER.png to learn from, too; may be given more than once",
    )


def learning_rate(highest: float, step: int, progress: float) -> float:
    """Return the rate of a step: it rises, then falls along a cosine to a hundredth.

    Args:
        highest: Of the run.
        step: From 0.
        progress: Part of the run that is done, 0 to 1.
    """
    warm = min((step + 1) / WARMUP, 1.0)
    return highest * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def move_average(averaged: nn.Module, model: nn.Module, *, step: int, most: float) -> None:
    """Move the averaged weights, and the statistics of normalisation, towards the current ones.

    Args:
        averaged: Changed in place.
        model: Of the same architecture.
        step: Steps done: at first the average follows quickly.
        most: Decay per step later on.
    """
    decay = min(most, (1 + step) / (10 + step))
    for mine, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)


def fill(block: str) -> str:
    """Return a card's paragraph with its lines filled; tables, headings and code stay as they are."""
    return block if block.startswith(("|", "#", "`")) else textwrap.fill(block, 118, break_on_hyphens=False)

"""The loop that both kinds of learning share: AdamW, a rate that falls with the clock, and averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CLIP_NORM = 1.0
WARM_STEPS = 20
AVERAGE = 0.98
"""Decay of the averaged weights per step, once there were so many steps."""

Progress = Callable[[float, float], None]
"""Told the part that is done, 0 to 1, and the mean loss of late; raises to stop."""


def unwatched(part: float, loss: float) -> None:
    """Take no notice of the progress."""


@dataclass(frozen=True)
class Effort:
    """How long to learn.

    Args:
        seconds: At most so long, without the time in which other processes have the cores.
        steps: At most so many steps, if that is less.
        rate: Highest learning rate.
        seed: Of everything that is drawn.
    """

    seconds: float
    steps: int = 100_000
    rate: float = 1e-3
    seed: int = 1

    def share(self, part: float) -> Effort:
        """Return an effort of a part of the time."""
        return replace(self, seconds=part * self.seconds)


def computed() -> float:
    """Return the seconds that this process has computed, with all its threads: it may have to wait for others."""
    return time.process_time() / torch.get_num_threads()


def fit(parameters: Sequence[Tensor], loss: Callable[[], Tensor], effort: Effort, progress: Progress) -> int:
    """Change parameters so that a loss falls; in the end they are the mean over the last steps.

    Args:
        parameters: Changed in place; they need gradients.
        loss: Draws a batch and returns its loss.
        effort: How long.
        progress: Told after each step.

    Returns:
        The number of steps.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=effort.rate, weight_decay=0.01)
    averaged = [parameter.detach().clone() for parameter in parameters]
    begun, step, late = computed(), 0, math.nan
    while True:
        done = max((computed() - begun) / effort.seconds, step / effort.steps)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = effort.rate * min(1.0, (step + 1) / WARM_STEPS) * (0.01 + 0.99 * (1 - done))
        value = loss()
        if not torch.isfinite(value):
            raise FloatingPointError("the loss is not a finite number")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        step += 1
        decay = min(AVERAGE, step / (step + 9))
        with torch.no_grad():
            for mean, parameter in zip(averaged, parameters, strict=True):
                mean.lerp_(parameter, 1 - decay)
        late = float(value.detach()) if math.isnan(late) else 0.95 * late + 0.05 * float(value.detach())
        progress(done, late)
    with torch.no_grad():
        for mean, parameter in zip(averaged, parameters, strict=True):
            parameter.copy_(mean)
    progress(1.0, late)
    return step

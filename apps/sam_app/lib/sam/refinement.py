"""Going on from an earlier answer: objects whose prompts were extended start from the mask they had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.sam.prompts import Prompts


@dataclass(frozen=True, eq=False)
class EarlierObject:
    """What an object was asked with before, and what came of it.

    Args:
        prompts: As they were, for the same image and in its pixels.
        scores: ``(C,)`` float32 predicted IoU of the candidates; the one to go on from comes first.
        low_res_logits: ``(C, 256, 256)`` float32, in the same order.
    """

    prompts: Prompts
    scores: np.ndarray
    low_res_logits: np.ndarray


def find_earlier(prompts: Prompts, earlier: Sequence[EarlierObject]) -> EarlierObject | None:
    """The earlier object that these prompts extend: the same box or none, and all of its points.

    Of several the one with the most points. A point or a box that was changed or taken away makes it another object.
    """
    extended = [candidate for candidate in earlier if _extends(prompts, candidate.prompts)]
    return max(extended, key=lambda candidate: len(candidate.prompts.points), default=None)


def is_unchanged(prompts: Prompts, earlier: EarlierObject) -> bool:
    """Whether prompts that extend the earlier ones add nothing."""
    return _points(prompts) == _points(earlier.prompts)


def continue_from(prompts: Prompts, earlier: EarlierObject) -> Prompts:
    """The prompts with the earlier mask's logits as the mask prompt."""
    return replace(prompts, mask_logits=earlier.low_res_logits[0])


def _extends(prompts: Prompts, earlier: Prompts) -> bool:
    same_box = (
        earlier.box is None
        if prompts.box is None
        else earlier.box is not None and np.array_equal(prompts.box, earlier.box)
    )
    return same_box and _points(earlier) <= _points(prompts)


def _points(prompts: Prompts) -> set[tuple[float, float, int]]:
    return {(float(x), float(y), int(label)) for (x, y), label in zip(prompts.points, prompts.labels, strict=True)}

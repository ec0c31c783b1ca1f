"""Refinement of an earlier result: objects whose prompts were extended start from their earlier mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.sam.prompts import Prompts


@dataclass(frozen=True, eq=False)
class EarlierObject:
    """An object's earlier prompts and their result.

    Args:
        prompts: The earlier prompts, for the same image and in its pixels.
        scores: ``(C,)`` float32 predicted IoU of the candidates; the one to refine comes first.
        low_res_logits: ``(C, S, S)`` float32, in the same order.
    """

    prompts: Prompts
    scores: np.ndarray
    low_res_logits: np.ndarray


def find_earlier(prompts: Prompts, earlier: Sequence[EarlierObject]) -> EarlierObject | None:
    """Return the earlier object that these prompts extend: they have the same box (or none) and all of its points.

    Of several, the one with the most points. If a point or a box was changed or removed, it is another object.
    """
    extended = [candidate for candidate in earlier if _extends(prompts, candidate.prompts)]
    return max(extended, key=lambda candidate: len(candidate.prompts.points), default=None)


def is_unchanged(prompts: Prompts, earlier: EarlierObject) -> bool:
    """Return whether prompts that extend the earlier ones are equal to them."""
    return _points(prompts) == _points(earlier.prompts)


def continue_from(prompts: Prompts, earlier: EarlierObject) -> Prompts:
    """Return the prompts with the earlier mask's logits as the mask prompt."""
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

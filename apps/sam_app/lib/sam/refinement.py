"""Refinement of an earlier result: objects whose prompts were extended start from their earlier mask."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.sam.prompts import Prompts


@dataclass(frozen=True, eq=False)
class EarlierObject:
    """An object's earlier prompts and their result.

    Args:
        prompts: The earlier prompts, for the same image and in its pixels; without their area, which can be large.
        scores: ``(C,)`` float32 predicted IoU of the candidates; the one to refine comes first.
        low_res_logits: ``(C, S, S)`` float32, in the same order.
        area: :func:`area_key` of the prompts' area.
        beside: Likewise of each area beside the object.
    """

    prompts: Prompts
    scores: np.ndarray
    low_res_logits: np.ndarray
    area: bytes | None = None
    beside: frozenset[bytes | None] = frozenset()

    @classmethod
    def of(
        cls, prompts: Prompts, scores: np.ndarray, low_res_logits: np.ndarray, beside: Sequence[np.ndarray] = ()
    ) -> EarlierObject:
        """Return what is kept of prompts that a box or point is part of, of areas beside the object, and the result."""
        alone, keys = replace(prompts, area=None), frozenset(map(area_key, beside))
        return cls(alone, scores, low_res_logits, area_key(prompts.area), keys)


def area_key(area: np.ndarray | None) -> bytes | None:
    """Return a digest that equal areas of one image have in common; None for none."""
    return None if area is None else hashlib.sha256(np.packbits(area).data).digest()


def find_earlier(
    prompts: Prompts, earlier: Sequence[EarlierObject], beside: Collection[bytes | None] = ()
) -> EarlierObject | None:
    """Return the earlier object that these prompts extend: they have its box and area (or none) and all of its points.

    Of several, the one with the most points. If a point, box or area was changed or removed, it is another object;
    likewise if an area beside it was. ``beside`` has the keys of those that there are.
    """
    area, there = area_key(prompts.area), set(beside)
    extended = [one for one in earlier if one.area == area and one.beside <= there and _extends(prompts, one.prompts)]
    return max(extended, key=lambda candidate: len(candidate.prompts.points), default=None)


def is_unchanged(prompts: Prompts, earlier: EarlierObject) -> bool:
    """Return whether prompts that extend the earlier ones are equal to them."""
    return _points(prompts) == _points(earlier.prompts)


def continue_from(prompts: Prompts, earlier: EarlierObject) -> Prompts:
    """Return the prompts with the earlier mask's logits as the mask prompt."""
    return replace(prompts, mask_logits=earlier.low_res_logits[0], area=None)


def _extends(prompts: Prompts, earlier: Prompts) -> bool:
    same_box = (
        earlier.box is None
        if prompts.box is None
        else earlier.box is not None and np.array_equal(prompts.box, earlier.box)
    )
    return same_box and _points(earlier) <= _points(prompts)


def _points(prompts: Prompts) -> set[tuple[float, float, int]]:
    return {(float(x), float(y), int(label)) for (x, y), label in zip(prompts.points, prompts.labels, strict=True)}

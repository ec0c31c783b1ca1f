"""What a propagation found: a mask a slice, where it ended and why, and what a later one can take over."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.sam.volume.appearance import Appearance

Source = Literal["prompts", "followed", "blended"]


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The object on one slice.

    Args:
        logits: ``(256, 256)`` float16.
        packed: The mask at the slice's size, as ``numpy.packbits`` makes it.
        size: ``(height, width)`` of the slice.
        source: What it was made from.
        score: Predicted IoU; of blended slices the mean.
        overlap: Dice with the slice before in the direction in which it was followed; None for prompts and blended.
        likeness: How much it looks like the object on its anchor; None likewise.
    """

    logits: np.ndarray
    packed: np.ndarray
    size: tuple[int, int]
    source: Source
    score: float
    overlap: float | None = None
    likeness: float | None = None

    @property
    def mask(self) -> np.ndarray:
        """``(height, width)`` bool."""
        height, width = self.size
        return np.unpackbits(self.packed, count=height * width).reshape(height, width).astype(bool)


@dataclass(frozen=True, eq=False)
class Anchor:
    """A slice with prompts.

    Args:
        k: The slice.
        key: Names the prompts and, of a correction, the anchors that led to the mask it corrects.
        found: The mask, possibly empty: then nothing is followed from here.
        appearance: Of the object there; None if the mask is empty.
    """

    k: int
    key: str
    found: SliceMask
    appearance: Appearance | None


@dataclass(frozen=True)
class Stop:
    """Where and why following ended.

    Args:
        anchor: The slice that it started from.
        k: The first slice that has no mask by it.
        reason: "end of slices", "max_slices", or how the object was lost, see
            :class:`~lib.sam.volume.slice_following.ObjectLostError`.
    """

    anchor: int
    k: int
    reason: str


@dataclass(frozen=True, eq=False)
class Span:
    """The slices between two anchors, or between one and the end.

    Args:
        found: The masks; slices without one have none.
        stops: Where following ended before it reached the other anchor.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]


SpanKey = tuple[str, str]
"""The keys of the anchors at both ends; empty where there is none."""


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """An object in a volume.

    Args:
        found: The masks by slice; slices without one are not in it.
        stops: Where following ended.
        anchors: All that were made for it, by their keys: those of before a correction, too.
        spans: Likewise.
        rules: What else it depends on: a result of other rules has nothing in common with it.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]
    anchors: Mapping[str, Anchor]
    spans: Mapping[SpanKey, Span]
    rules: Hashable

"""Result of a propagation: one mask per slice, where it ended and why, and what a later call can reuse."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

_SURE_PRESENCE = 0.8
_SURE_SCORE = 0.75
"""Above these a slice counts as sure; below 1 minus the former it is sure that the object is not there."""

Source = Literal["prompts", "followed", "blended"]


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The object on one slice.

    Args:
        logits: ``(S, S)`` float16.
        packed: The mask at the slice's size, packed by ``numpy.packbits``.
        size: ``(height, width)`` of the slice.
        source: How it was made: from prompts, by following, or by blending both directions.
        score: Predicted IoU; the mean for blended slices.
        presence: Probability that the object is there; 1 on a slice with prompts, the mean for blended slices.
    """

    logits: np.ndarray
    packed: np.ndarray
    size: tuple[int, int]
    source: Source
    score: float
    presence: float = 1.0

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
        key: Identifies the prompts and, for a correction, the anchors that led to the mask it corrects.
        found: The mask; if it is empty, nothing is followed from here.
    """

    k: int
    key: str
    found: SliceMask

    @property
    def is_empty(self) -> bool:
        """Whether the mask is."""
        return not self.found.packed.any()


@dataclass(frozen=True)
class Stop:
    """Where and why following ended.

    Args:
        anchor: The slice that it started from.
        k: The first slice without a mask.
        reason: "end of slices", "max_slices", "nothing found" or "object ended".
        presence: Probability that the object is on slice k all the same.
    """

    anchor: int
    k: int
    reason: str
    presence: float = 0.0


@dataclass(frozen=True, eq=False)
class Span:
    """The slices between two anchors, or between one and the end of the volume.

    Args:
        found: The masks by slice; slices without the object are absent.
        stops: Where following ended before it reached the other anchor.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]


SpanKey = tuple[str, str]
"""The keys of the anchors at both ends; an empty string where there is no anchor."""


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """An object in a volume.

    Args:
        found: The masks by slice; slices without the object are absent.
        stops: Where following ended.
        anchors: All anchors computed for it, by key, including those from before a correction.
        spans: All spans, likewise.
        rules: The options and bounds used; results with other rules share no anchor or span with it.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]
    anchors: Mapping[str, Anchor]
    spans: Mapping[SpanKey, Span]
    rules: Hashable

    @property
    def uncertain_slices(self) -> list[int]:
        """The slices whose mask, or whether there is one, is less sure than others: where to look first."""
        doubtful = {
            k
            for k, each in self.found.items()
            if each.source != "prompts" and (each.presence < _SURE_PRESENCE or each.score < _SURE_SCORE)
        }
        ended = {stop.k for stop in self.stops if stop.presence > 1 - _SURE_PRESENCE}
        return sorted(doubtful | ended - self.found.keys())

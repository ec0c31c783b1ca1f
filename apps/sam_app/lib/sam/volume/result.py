"""Result of a propagation: one mask per slice, where it ended and why, and what a later call can reuse."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lib.sam.logits_grid import LogitsGrid

_SURE_PRESENCE = 0.8
_SURE_SCORE = 0.75
"""Above these a slice counts as sure; below 1 minus the former it is sure that the object is not there."""

Source = Literal["prompts", "followed", "blended", "start"]

Effect = Literal["adds", "adds apart", "takes away"]

OUT_OF_TIME = "time"
"""Reason of a stop that is not an end: a later call goes on from there."""


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The object on one slice.

    Args:
        logits: ``(S, S)`` float16.
        packed: The mask at the slice's size, packed by ``numpy.packbits``.
        size: ``(height, width)`` of the slice.
        source: How it was made: from prompts, by following, by blending both directions, or it was there at the start.
        score: Predicted IoU; the mean for blended slices.
        presence: Probability that the object is there; 1 on a slice with prompts, the mean for blended slices.
    """

    logits: np.ndarray
    packed: np.ndarray
    size: tuple[int, int]
    source: Source
    score: float
    presence: float = 1.0

    @classmethod
    def of(
        cls, mask: np.ndarray, grid: LogitsGrid, source: Source = "start", score: float = 1.0, presence: float = 1.0
    ) -> SliceMask:
        """Return a ``(height, width)`` bool mask that the decoder did not make, with logits that stand for it."""
        logits = grid.area_logits(mask).astype(np.float16)
        return cls(logits, np.packbits(mask), grid.image_size, source, score, presence)

    def changed_to(self, mask: np.ndarray, grid: LogitsGrid) -> SliceMask:
        """Return another ``(height, width)`` bool mask that was made in the same way."""
        return self.of(mask, grid, self.source, self.score, self.presence)

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
        key: Identifies the mask and its effect.
        found: The mask; if it is empty, nothing is followed from here.
        effect: "adds" or "takes away" if its prompts only do so to the mask that was there, "adds apart" if what they
            add does not touch it; None for any change.
    """

    k: int
    key: str
    found: SliceMask
    effect: Effect | None = None

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
        reason: "end of slices", "max_slices", "nothing found", "object ended", "as at the start" (the mask that was
            there fits from slice k on) or :data:`OUT_OF_TIME`.
        presence: Probability that the object is on slice k all the same.
    """

    anchor: int
    k: int
    reason: str
    presence: float = 0.0


@dataclass(frozen=True, eq=False)
class Way:
    """The object as it was followed from an anchor, slice by slice in one direction.

    Args:
        found: The masks by slice.
        stop: Where it ended; None at another anchor.
        last: Probability ``(H, W)`` of the object on the last of them, from which there was no time to go on.
    """

    found: Mapping[int, SliceMask]
    stop: Stop | None = None
    last: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Span:
    """The slices between two anchors, or between one and the end of the volume.

    Args:
        found: The masks by slice; slices without the object are absent.
        stops: Where following ended before it reached the other anchor.
        ways: From the anchor on either side; empty if both were followed to their end.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]
    ways: tuple[Way, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it was followed to its end."""
        return _is_complete(self.stops)


def _is_complete(stops: Sequence[Stop]) -> bool:
    return all(stop.reason != OUT_OF_TIME for stop in stops)


SpanKey = tuple[str, str]
"""The keys of the anchors at both ends; an empty string where there is no anchor."""


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """An object in a volume.

    Args:
        found: The masks by slice; slices without the object are absent.
        stops: Where following ended.
        anchors: All anchors computed for it, by their prompts, including those from before a correction.
        spans: All spans, by the anchors at their ends, likewise.
        rules: The options and bounds used; results with other rules share no anchor or span with it.
    """

    found: Mapping[int, SliceMask]
    stops: tuple[Stop, ...]
    anchors: Mapping[str, Anchor]
    spans: Mapping[SpanKey, Span]
    rules: Hashable

    def without(self, areas: Mapping[int, np.ndarray]) -> VolumeResult:
        """Return it with areas ``(height, width)`` bool, by slice, cut out of its masks, as they are shown."""
        found = dict(self.found)
        for k in found.keys() & areas.keys():
            mask = found[k].mask & ~areas[k]
            found[k] = replace(found[k], packed=np.packbits(mask))
            if not mask.any():
                del found[k]
        return replace(self, found=found)

    @property
    def is_complete(self) -> bool:
        """Whether there was time to follow the object to its end."""
        return _is_complete(self.stops)

    @property
    def uncertain_slices(self) -> list[int]:
        """The slices whose mask, or whether there is one, is less sure than others: where to look first."""
        doubtful = {
            k
            for k, each in self.found.items()
            if each.source in ("followed", "blended") and (each.presence < _SURE_PRESENCE or each.score < _SURE_SCORE)
        }
        ended = {stop.k for stop in self.stops if stop.presence > 1 - _SURE_PRESENCE}
        return sorted(doubtful | ended - self.found.keys())

"""Segment an object on every slice that it reaches, from prompts on one or more slices.

A slice with prompts, decoded with them, is an *anchor*. Points on a slice where the object was found already, from the
anchors before, refine the mask found there. From an anchor the object is followed slice by slice in both
directions by a network of its own (:mod:`lib.sam.volume.follower`), which needs the pixels alone: the model encodes and
decodes only the anchors. Between two anchors it is followed from both, and the two results are blended. The slices
between two anchors, or between one and the end of the volume, are a *span*. A span depends only on the anchors at its
ends, so that a correction on one slice changes the two spans next to it and no other; a later call reuses the spans
that it shares with an earlier result.

The logits and a packed mask of each slice are stored. Two directions are followed at the same time, each in a thread,
so that one slice is read and windowed while the network looks at another.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from lib.base.clock import current_clock
from lib.sam.logits_grid import LogitsGrid, touching
from lib.sam.predictor import Predictor
from lib.sam.prompts import FOREGROUND, PromptError, Prompts
from lib.sam.volume.corrections import correction_prompts
from lib.sam.volume.follower import Found, Slice, bundled_follower
from lib.sam.volume.result import Anchor, SliceMask, Source, Span, SpanKey, Stop, VolumeResult

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

Followed = tuple[dict[int, SliceMask], Stop | None]
"""What was found in one direction, by slice, and where it ended; None at an anchor."""

_PROGRESS_SECONDS = 2.0

_DIRECTIONS_AT_ONCE = 2
"""One slice is read while the network looks at another; more would wait for it."""


@dataclass(frozen=True)
class PropagationOptions:
    """How far an object is followed.

    Args:
        max_slices: At most this many beyond the first and the last slice with prompts; None for no limit.
        min_presence: It has ended where the probability that it is there is below this.
    """

    max_slices: int | None = None
    min_presence: float = 0.5


@dataclass(frozen=True, eq=False)
class VolumePrompts:
    """A user's prompts for one object in a volume.

    Args:
        marked: The prompts of each slice on which a point or box marks the object, in the order in which they came.
        background: Background points ``(N, 2)``, XY, of slices without such a mark: if one lies on the mask found
            there, that mask is corrected.
        bounds: The slices that the object can be on; includes those with prompts.

    Raises:
        PromptError: If nothing marks the object, or a slice with prompts is out of bounds.
    """

    marked: Mapping[int, Prompts]
    background: Mapping[int, np.ndarray]
    bounds: range

    def __post_init__(self) -> None:
        if not self.marked:
            raise PromptError("nothing marks the object on any slice")
        outside = [k for k in (*self.marked, *self.background) if k not in self.bounds]
        if outside:
            raise PromptError(f"there are prompts on the slices {outside}, which are not among those to segment")


@singledispatch
def propagate(
    predictor: Predictor,
    frame: Callable[[int], np.ndarray],
    prompts: VolumePrompts,
    options: PropagationOptions | None = None,
    *,
    earlier: VolumeResult | None = None,
) -> VolumeResult:
    """Segment the object on every slice that it reaches; :mod:`lib.sam.volume.sam2_video` does it for SAM 2.

    Args:
        predictor: The model.
        frame: Returns slice k, ``(H, W, 3)`` uint8 after windowing; called only for slices that are reached.
        prompts: The user's prompts.
        options: :class:`PropagationOptions` with its defaults if None.
        earlier: A result of the same volume, window and model, whose anchors and spans are reused where they apply.

    Raises:
        PromptError: If a prompt is outside its slice.
        TimeLimitError: If the current clock's time is up.
    """
    rules = (options or PropagationOptions(), prompts.bounds)
    work = _Propagation(predictor, frame, rules, earlier if earlier is not None and earlier.rules == rules else None)
    anchors: dict[int, Anchor] = {}
    for k, marked in prompts.marked.items():
        refines = bool(anchors) and marked.box is None and "mask" in predictor.spec.prompts
        before = work.fill(anchors)[0].get(k) if refines else None
        anchors[k] = work.anchor(k, marked, before, anchors)
    found, stops = work.fill(anchors)
    for k in sorted(prompts.background, key=lambda k: (min(abs(k - marked) for marked in prompts.marked), k)):
        if k in found and _covers(found[k].mask, prompts.background[k]):
            anchors[k] = work.correction(k, prompts.background[k], found[k], anchors)
            found, stops = work.fill(anchors)
    return VolumeResult(found, stops, work.anchors, work.spans, rules)


@dataclass(eq=False)
class _Propagation:
    """State of one call of :func:`propagate`: computes anchors and spans, or reuses those of an earlier result."""

    predictor: Predictor
    frame: Callable[[int], np.ndarray]
    rules: tuple[PropagationOptions, range]
    earlier: VolumeResult | None

    def __post_init__(self) -> None:
        self.anchors: dict[str, Anchor] = {}
        self.spans: dict[SpanKey, Span] = {}
        self._options, self._bounds = self.rules
        self._follower = bundled_follower()
        self._progress = Progress()

    def anchor(self, k: int, prompts: Prompts, found: SliceMask | None, anchors: Mapping[int, Anchor]) -> Anchor:
        """Return the anchor for a slice's own prompts, which refine the mask found there between the anchors before."""
        box = b"" if prompts.box is None else prompts.box.tobytes()
        parts = prompts.points.tobytes(), prompts.labels.tobytes(), box
        if found is None:
            return self._anchor(k, _key(k, *parts), lambda grid: prompts)
        refined = replace(prompts, mask_logits=found.logits.astype(np.float32))
        return self._anchor(k, _key(k, *parts, *_keys_beside(k, anchors)), lambda grid: refined)

    def correction(self, k: int, background: np.ndarray, found: SliceMask, anchors: Mapping[int, Anchor]) -> Anchor:
        """Return the anchor that corrects the mask found on a slice, between these anchors, by background points."""
        key = _key(k, background.tobytes(), *_keys_beside(k, anchors))
        kinds = self.predictor.spec.prompts
        return self._anchor(k, key, lambda grid: correction_prompts(grid, found.logits, background, kinds))

    def _anchor(self, k: int, key: str, prompts_on: Callable[[LogitsGrid], Prompts | None]) -> Anchor:
        known = self.earlier.anchors if self.earlier is not None else {}
        return _reused(key, self.anchors, known, lambda: self._new_anchor(k, key, prompts_on))

    def _new_anchor(self, k: int, key: str, prompts_on: Callable[[LogitsGrid], Prompts | None]) -> Anchor:
        embedding = self.predictor.encode(self.frame(k))
        grid = self.predictor.logits_grid(embedding.image_size)
        prompts = prompts_on(grid)
        side = self.predictor.logits_side
        logits, score = np.full((side, side), -1.0, dtype=np.float32), 0.0
        if prompts is not None:
            multimask = prompts.is_lone_point and self.predictor.spec.point_candidates
            prediction = self.predictor.decode(embedding, [prompts], multimask=multimask)[0]
            logits = _keep_pointed_pieces(grid, prediction.low_res_logits[0], prompts)
            score = float(prediction.scores[0])
        return Anchor(k, key, self._slice_mask(embedding.image_size, logits, "prompts", score))

    def fill(self, anchors: Mapping[int, Anchor]) -> tuple[dict[int, SliceMask], tuple[Stop, ...]]:
        """Return the masks of all slices (anchors, between and beyond them) and where following ended."""
        found = {k: anchor.found for k, anchor in anchors.items() if not anchor.is_empty}
        stops: list[Stop] = []
        ends = [None, *(anchors[k] for k in sorted(anchors)), None]
        sides = {_span_key(left, right): (left, right) for left, right in pairwise(ends)}
        known = {**(self.earlier.spans if self.earlier is not None else {}), **self.spans}
        with ThreadPoolExecutor(_DIRECTIONS_AT_ONCE, "follow") as pool:
            begun = {key: self._begin_span(*pair, pool) for key, pair in sides.items() if key not in known}
            for key in sides:
                span = self.spans[key] = known[key] if key in known else begun[key]()
                found.update(span.found)
                stops.extend(span.stops)
        return dict(sorted(found.items())), tuple(stops)

    def _begin_span(self, left: Anchor | None, right: Anchor | None, pool: ThreadPoolExecutor) -> Callable[[], Span]:
        """Begin to follow the object in both directions; return what waits for the end and makes the span."""
        first = left.k + 1 if left else self._bounds.start
        last = right.k - 1 if right else self._bounds.stop - 1
        is_open = left is None or right is None
        directions = ((left, range(first, last + 1)), (right, range(last, first - 1, -1)))
        follow = partial(self._follow, is_open=is_open)
        ways = [pool.submit(copy_context().run, follow, anchor, slices) for anchor, slices in directions]
        return lambda: self._new_span(first, last, *(way.result() for way in ways))

    def _new_span(self, first: int, last: int, one: Followed, other: Followed) -> Span:
        """Return the span of these slices from what was found from its left and from its right."""
        (forward, stop), (backward, other_stop) = one, other
        found = {**forward, **backward}
        for k in forward.keys() & backward.keys():
            found[k] = self._blended(forward[k], backward[k], weight=(last + 1 - k) / (last - first + 2))
        return Span(found, tuple(each for each in (stop, other_stop) if each is not None))

    def _follow(self, anchor: Anchor | None, slices: range, *, is_open: bool) -> Followed:
        """Follow the object slice by slice until it is lost; return its masks, and the stop unless at an anchor."""
        found: dict[int, SliceMask] = {}
        if anchor is None or anchor.is_empty:
            return found, None
        marked = before = Slice.of(self.frame(anchor.k), anchor.found.mask)
        for k in slices:
            if is_open and len(found) == self._options.max_slices:
                return found, Stop(anchor.k, k, "max_slices")
            here = Slice.of(self.frame(k))
            with current_clock().stage("follow"):
                step = self._follower.find(marked, before, here)
            if step.presence < self._options.min_presence:
                return found, Stop(anchor.k, k, "object ended", step.presence)
            if not (step.probability > 0.5).any():
                return found, Stop(anchor.k, k, "nothing found", step.presence)
            found[k] = self._followed(step)
            before = replace(here, mask=step.probability)
            self._progress.show(k)
        if not is_open:
            return found, None
        return found, Stop(anchor.k, slices.stop, "end of slices")

    def _followed(self, step: Found) -> SliceMask:
        size = step.probability.shape
        logits = self.predictor.logits_grid(size).logits(step.probability)
        packed = np.packbits(step.probability > 0.5)
        return SliceMask(logits.astype(np.float16), packed, size, "followed", step.score, step.presence)

    def _blended(self, forward: SliceMask, backward: SliceMask, weight: float) -> SliceMask:
        """Average both sides' logits, the nearer anchor's weighing more; keep only what either side found."""
        grid = self.predictor.logits_grid(forward.size)
        logits = weight * forward.logits + (1 - weight) * backward.logits
        mask = touching(grid.mask(logits), grid.mask(forward.logits) | grid.mask(backward.logits))
        score = weight * forward.score + (1 - weight) * backward.score
        presence = weight * forward.presence + (1 - weight) * backward.presence
        return self._slice_mask(forward.size, grid.only(logits, mask), "blended", score, presence)

    def _slice_mask(
        self, size: tuple[int, int], logits: np.ndarray, source: Source, score: float, presence: float = 1.0
    ) -> SliceMask:
        tensor = torch.as_tensor(logits, dtype=torch.float32, device=self.predictor.device)[None, None]
        mask = self.predictor.masks(tensor, size)[0, 0].cpu().numpy()
        return SliceMask(logits.astype(np.float16), np.packbits(mask), size, source, score, presence)


def _reused(key: K, made: dict[K, V], earlier: Mapping[K, V], make: Callable[[], V]) -> V:
    """Return what is made already, or was made for an earlier result, or is made now; it is in ``made`` then."""
    if key not in made:
        made[key] = earlier[key] if key in earlier else make()
    return made[key]


class Progress:
    """Logger of progress: a line every two seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._slices = 0

    def show(self, k: int) -> None:
        """Count slice k, and log it if it is time."""
        with self._lock:
            self._slices += 1
            if time.monotonic() >= self._next:
                logger.info("Followed the object on %d slices, now on slice %d", self._slices, k)
                self._next = time.monotonic() + _PROGRESS_SECONDS


def _covers(mask: np.ndarray, points: np.ndarray) -> bool:
    """Return whether any of the points (x, y) is on the mask."""
    columns, rows = np.clip(np.round(points).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    return bool(mask[rows, columns].any())


def _key(k: int, *parts: bytes) -> str:
    digest = hashlib.sha256(str(k).encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _keys_beside(k: int, anchors: Mapping[int, Anchor]) -> list[bytes]:
    """Return the keys of the anchors next to slice k on either side; empty where there is none."""
    left = max((other for other in anchors if other < k), default=None)
    right = min((other for other in anchors if other > k), default=None)
    return [b"" if side is None else anchors[side].key.encode() for side in (left, right)]


def _span_key(left: Anchor | None, right: Anchor | None) -> SpanKey:
    return (left.key if left else "", right.key if right else "")


def _keep_pointed_pieces(grid: LogitsGrid, logits: np.ndarray, prompts: Prompts) -> np.ndarray:
    """Drop the pieces of a mask that contain no foreground point.

    All stay if none contains one, or if a box or an earlier mask says where they are.
    """
    points = prompts.points[prompts.labels == FOREGROUND]
    if prompts.box is not None or prompts.mask_logits is not None or not len(points):
        return logits
    pointed = np.zeros(grid.shape, dtype=bool)
    for point in points:
        pointed[grid.cell(tuple(point))] = True
    mask = touching(grid.mask(logits), pointed)
    return grid.only(logits, mask) if mask.any() else logits

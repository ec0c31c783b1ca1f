"""Segment an object on every slice that it reaches, from prompts on one or more slices.

A slice with prompts, decoded with them, is an *anchor*. Points on a slice where the object was found already, from the
anchors before, refine the mask found there. From an anchor the object is followed slice by slice in both
directions by a network of its own (:mod:`lib.sam.volume.follower`), which needs the pixels alone: the model encodes and
decodes only the anchors. Between two anchors it is followed from both, and the two results are blended. The slices
between two anchors, or between one and the end of the volume, are a *span*. A span depends only on the anchors at its
ends, so that a correction on one slice changes the two spans next to it and no other; a later call reuses the spans
that it shares with an earlier result, and follows the object no farther than to where its masks are as they were.

The logits and a packed mask of each slice are stored. Two directions are followed at the same time, each in a thread,
so that one slice is read and windowed while the network looks at another.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from lib.base.clock import current_clock
from lib.sam.embeddings.cache import Embedding
from lib.sam.logits_grid import LogitsGrid, dice, touching
from lib.sam.predictor import Predictor
from lib.sam.prompts import BACKGROUND, FOREGROUND, PromptError, Prompts
from lib.sam.strokes import point_beside, with_points
from lib.sam.volume.corrections import corrected, correction_prompts
from lib.sam.volume.follower import Found, Slice, bundled_follower
from lib.sam.volume.result import OUT_OF_TIME, Anchor, Effect, SliceMask, Source, Span, SpanKey, Stop, VolumeResult, Way

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

_PROGRESS_SECONDS = 2.0

_SAME_DICE, _SAME_SLICES = 0.99, 2
"""A mask is as in the earlier result from this Dice on; after so many in a row, the masks beyond are those of it."""

_FITTING_DICE = 0.9
"""From this Dice on, what is found on a slice fits the mask to start from, and that stays from there on."""

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
        start: The mask to start from, by slice; all in bounds.

    Raises:
        PromptError: If nothing marks the object, or a slice with prompts is out of bounds.
    """

    marked: Mapping[int, Prompts]
    background: Mapping[int, np.ndarray]
    bounds: range
    start: Mapping[int, SliceMask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.marked and not self.start:
            raise PromptError("nothing marks the object on any slice")
        outside = [k for k in (*self.marked, *self.background) if k not in self.bounds]
        if outside:
            raise PromptError(f"there are prompts on the slices {outside}, which are not among those to segment")

    def fits_start(self, k: int, mask: np.ndarray) -> bool:
        """Return whether a mask found on slice k is about the one to start from."""
        return k in self.start and dice(mask, self.start[k].mask) >= _FITTING_DICE

    def on_start(self, k: int) -> Prompts:
        """Return the prompts of a marked slice, which correct the mask to start from if there is one.

        Points far from that mask are on another piece of the object, which they mark alone.
        """
        prompts = self.marked[k]
        if k not in self.start or not prompts.is_points or prompts.is_far_from(self.start[k].mask):
            return prompts
        return prompts.correcting(self.start[k].mask)

    def off(self, found: Mapping[int, SliceMask], beside: Mapping[int, Sequence[np.ndarray]]) -> VolumePrompts:
        """Return the prompts with a background point where a mask reaches into an area beside the object.

        Args:
            found: The masks, by slice.
            beside: Areas ``(height, width)`` bool, likewise.
        """
        marked, background = dict(self.marked), dict(self.background)
        for k in found.keys() & beside.keys():
            reached = (point_beside(found[k].mask, area) for area in beside[k])
            if not (points := [point for point in reached if point is not None]):
                continue
            if k in marked:
                marked[k] = with_points(marked[k], [], points)
            else:
                background[k] = np.concatenate([background.get(k, np.zeros((0, 2))), points])
        return replace(self, marked=marked, background=background)

    @property
    def start_key(self) -> bytes:
        """A digest of the mask to start from."""
        return b"".join(hashlib.sha256(self.start[k].packed.tobytes()).digest() for k in sorted(self.start))


@singledispatch
def propagate(
    predictor: Predictor,
    frame: Callable[[int], np.ndarray],
    prompts: VolumePrompts,
    options: PropagationOptions | None = None,
    *,
    earlier: VolumeResult | None = None,
    until: float = math.inf,
) -> VolumeResult:
    """Segment the object on every slice that it reaches; :mod:`lib.sam.volume.sam2_video` does it for SAM 2.

    Args:
        predictor: The model.
        frame: Returns slice k, ``(H, W, 3)`` uint8 after windowing; called only for slices that are reached.
        prompts: The user's prompts.
        options: :class:`PropagationOptions` with its defaults if None.
        earlier: A result of the same volume, window and model, whose anchors and spans are reused where they apply.
        until: Time, of ``time.monotonic()``, from which on no further slice is followed: the result is what was found,
            and a call with it as ``earlier`` goes on.

    Raises:
        PromptError: If a prompt is outside its slice.
        TimeLimitError: If the current clock's time is up.
    """
    rules = (options or PropagationOptions(), prompts.bounds, prompts.start_key)
    known = earlier if earlier is not None and earlier.rules == rules else None
    work = _Propagation(predictor, frame, prompts, rules, known, until)
    anchors: dict[int, Anchor] = {}
    for k, marked in prompts.marked.items():
        refines = bool(anchors) and marked.box is None and "mask" in predictor.spec.prompts
        before = work.fill(anchors)[0].get(k) if refines else None
        if before is None or before.source == "start":
            anchors[k] = work.anchor(k)
        else:
            anchors[k] = work.refinement(k, before, anchors)
    found, stops = work.fill(anchors)
    for k in sorted(prompts.background, key=lambda k: (min((abs(k - m) for m in prompts.marked), default=0), k)):
        if k in found and covers(found[k].mask, prompts.background[k]):
            anchors[k] = work.correction(k, found[k], anchors)
            found, stops = work.fill(anchors)
    return VolumeResult(found, stops, work.anchors, work.spans, rules)


@dataclass(frozen=True, eq=False)
class _Clicks:
    """A user's points, ``(N, 2)`` XY with labels, on a mask to start from, ``(H, W)`` bool."""

    mask: np.ndarray
    points: np.ndarray
    labels: np.ndarray

    @property
    def effect(self) -> Effect | None:
        """What they do to the mask, if they all do the same."""
        if (self.labels == FOREGROUND).all():
            return "adds"
        return "takes away" if (self.labels == BACKGROUND).all() else None


@dataclass(eq=False)
class _Propagation:
    """State of one call of :func:`propagate`: computes anchors and spans, or reuses those of an earlier result."""

    predictor: Predictor
    frame: Callable[[int], np.ndarray]
    prompts: VolumePrompts
    rules: tuple[PropagationOptions, range, bytes]
    earlier: VolumeResult | None
    until: float

    def __post_init__(self) -> None:
        self.anchors: dict[str, Anchor] = {}
        self.spans: dict[SpanKey, Span] = {}
        self._options, self._bounds = self.rules[:2]
        self._follower = bundled_follower()
        self._progress = Progress()

    def anchor(self, k: int) -> Anchor:
        """Return the anchor for a marked slice's own prompts, which may correct the mask to start from."""
        marked, start = self.prompts.marked[k], self.prompts.start.get(k)
        prompts = self.prompts.on_start(k)
        clicks = None if start is None or not marked.is_points else _Clicks(start.mask, marked.points, marked.labels)
        return self._anchor(k, _key(k, prompts.key), lambda grid: prompts, clicks)

    def refinement(self, k: int, found: SliceMask, anchors: Mapping[int, Anchor]) -> Anchor:
        """Return the anchor for a marked slice's own prompts, which refine the mask found between anchors before."""
        prompts = self.prompts.marked[k]
        refined = replace(prompts, mask_logits=found.logits.astype(np.float32), area=None)
        return self._anchor(k, _key(k, prompts.key, *_keys_beside(k, anchors)), lambda grid: refined)

    def correction(self, k: int, found: SliceMask, anchors: Mapping[int, Anchor]) -> Anchor:
        """Return the anchor that corrects the mask found on a slice, between these anchors, by background points."""
        background = self.prompts.background[k]
        key = _key(k, background.tobytes(), *_keys_beside(k, anchors))
        kinds = self.predictor.spec.prompts
        labels = np.full(len(background), BACKGROUND)
        clicks = _Clicks(found.mask, background, labels) if found.source == "start" else None
        return self._anchor(k, key, lambda grid: correction_prompts(grid, found.logits, background, kinds), clicks)

    def _anchor(
        self, k: int, key: str, prompts_on: Callable[[LogitsGrid], Prompts | None], clicks: _Clicks | None = None
    ) -> Anchor:
        """Return an anchor, made unless it is known; if there are clicks on the mask to start from, it is corrected."""
        known = self.earlier.anchors if self.earlier is not None else {}
        return _reused(key, self.anchors, known, lambda: self._new_anchor(k, prompts_on, clicks))

    def _new_anchor(self, k: int, prompts_on: Callable[[LogitsGrid], Prompts | None], clicks: _Clicks | None) -> Anchor:
        embedding = self.predictor.encode(self.frame(k))
        grid = self.predictor.logits_grid(embedding.image_size)
        prompts = prompts_on(grid)
        side = self.predictor.logits_side
        logits, score = np.full((side, side), -1.0, dtype=np.float32), 0.0
        if prompts is not None:
            logits, score = self._decoded(embedding, grid, prompts)
        found = self._slice_mask(embedding.image_size, logits, "prompts", score)
        if clicks is not None:
            mask = corrected(clicks.mask, found.mask, clicks.points, clicks.labels)
            found = found.changed_to(mask, grid)
        effect = None if clicks is None else clicks.effect
        if clicks is not None and effect == "adds" and (found.mask & ~touching(found.mask, clicks.mask)).any():
            effect = "adds apart"
        return Anchor(k, _key(k, found.packed.tobytes(), str(effect).encode()), found, effect)

    def _decoded(self, embedding: Embedding, grid: LogitsGrid, prompts: Prompts) -> tuple[np.ndarray, float]:
        """Return a slice's logits and predicted IoU; background points off the mask without them leave it alone."""
        background = prompts.points[prompts.labels == BACKGROUND]
        if len(background) and (alone := prompts.without_background()) is not None:
            logits, score = self._decoded(embedding, grid, alone)
            if not any(grid.mask(logits)[grid.cell((x, y))] for x, y in background):
                return logits, score
        multimask = prompts.is_lone_point and self.predictor.spec.point_candidates
        prediction = self.predictor.decode(embedding, [prompts], multimask=multimask)[0]
        return _keep_pointed_pieces(grid, prediction.low_res_logits[0], prompts), float(prediction.scores[0])

    def fill(self, anchors: Mapping[int, Anchor]) -> tuple[dict[int, SliceMask], tuple[Stop, ...]]:
        """Return the masks of all slices (anchors, between and beyond them) and where following ended."""
        found = {k: mask for k, mask in self.prompts.start.items() if k not in anchors}
        found |= {k: anchor.found for k, anchor in anchors.items() if not anchor.is_empty}
        stops: list[Stop] = []
        ends = [None, *(anchors[k] for k in sorted(anchors)), None]
        sides = {_span_key(left, right): (left, right) for left, right in pairwise(ends)}
        known = {**(self.earlier.spans if self.earlier is not None else {}), **self.spans}
        with ThreadPoolExecutor(_DIRECTIONS_AT_ONCE, "follow") as pool:
            done = {key: known[key] for key in sides if key in known and (known[key].is_complete or self._is_late)}
            begun = {
                key: self._begin_span(*pair, known.get(key), pool) for key, pair in sides.items() if key not in done
            }
            for key in sides:
                span = self.spans[key] = done[key] if key in done else begun[key]()
                found.update(span.found)
                stops.extend(span.stops)
        return {k: found[k] for k in sorted(found) if found[k].packed.any()}, tuple(stops)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self.until

    def _begin_span(
        self, left: Anchor | None, right: Anchor | None, unfinished: Span | None, pool: ThreadPoolExecutor
    ) -> Callable[[], Span]:
        """Begin to follow the object in both directions; return what waits for the end and makes the span.

        Args:
            left: The anchor on its left; None at the beginning of the slices.
            right: The anchor on its right; None at their end.
            unfinished: The span as far as there was time; it goes on where it ended.
            pool: Runs both directions.
        """
        first = left.k + 1 if left else self._bounds.start
        last = right.k - 1 if right else self._bounds.stop - 1
        is_open = left is None or right is None
        directions = ((left, range(first, last + 1)), (right, range(last, first - 1, -1)))
        resumed = unfinished.ways if unfinished is not None else (None, None)
        ways = []
        for (anchor, slices), before in zip(directions, resumed, strict=True):
            follow = partial(self._follow, anchor, slices, before, is_open=is_open)
            ways.append(pool.submit(copy_context().run, follow))
        return lambda: self._new_span(first, last, *(way.result() for way in ways))

    def _new_span(self, first: int, last: int, one: Way, other: Way) -> Span:
        """Return the span of these slices from what was found from its left and from its right."""
        forward, backward = one.found, other.found
        found = {**forward, **backward}
        for k in forward.keys() & backward.keys():
            found[k] = self._blended(forward[k], backward[k], weight=(last + 1 - k) / (last - first + 2))
        span = Span(found, tuple(way.stop for way in (one, other) if way.stop is not None))
        return span if span.is_complete else replace(span, ways=(one, other))

    def _follow(self, anchor: Anchor | None, slices: range, resumed: Way | None, *, is_open: bool) -> Way:
        """Follow what an anchor shows, slice by slice until it is lost; return masks, and the stop unless at an anchor.

        Args:
            anchor: Where it begins.
            slices: In this order.
            resumed: As far as it was followed before; None: not yet.
            is_open: Whether no anchor is at the other end.
        """
        if resumed is not None and (resumed.stop is None or resumed.stop.reason != OUT_OF_TIME):
            return resumed
        if anchor is None:
            return Way({})
        resumed = resumed or Way({})
        if anchor.effect in ("adds apart", "takes away"):
            return self._follow_part(anchor, slices, resumed)
        return Way({}) if anchor.is_empty else self._follow_object(anchor, slices, resumed, is_open=is_open)

    def _follow_object(self, anchor: Anchor, slices: range, resumed: Way, *, is_open: bool) -> Way:
        """Follow the object from a mask that is not empty; arguments as of :meth:`_follow`."""
        found: dict[int, SliceMask] = {}
        marked = before = Slice.of(self.frame(anchor.k), anchor.found.mask)
        same = 0
        for k in slices:
            if k in resumed.found:
                found[k] = resumed.found[k]
                if k + slices.step not in resumed.found:
                    before = self._resumed(k, resumed, found[k].mask)
                continue
            if self._is_late:
                return Way(found, Stop(anchor.k, k, OUT_OF_TIME), before.mask if found else None)
            if is_open and len(found) == self._options.max_slices:
                return Way(found, Stop(anchor.k, k, "max_slices"))
            here = Slice.of(self.frame(k))
            with current_clock().stage("follow"):
                step = self._on_start(anchor, k, self._follower.find(marked, before, here))
            if step.presence < self._options.min_presence:
                return Way(found, Stop(anchor.k, k, "object ended", step.presence))
            if not (step.probability > 0.5).any():
                return Way(found, Stop(anchor.k, k, "nothing found", step.presence))
            if self.prompts.fits_start(k, step.probability > 0.5):
                return Way(found, Stop(anchor.k, k, "as at the start"))
            found[k] = self._followed(step)
            before = replace(here, mask=step.probability)
            self._progress.show(k)
            same = same + 1 if self._is_as_before(k, found[k]) else 0
            if same == _SAME_SLICES and (rest := self._as_before(anchor, k, slices, is_open=is_open)) is not None:
                return Way({**found, **rest.found}, rest.stop)
        if not is_open:
            return Way(found)
        return Way(found, Stop(anchor.k, slices.stop, "end of slices"))

    def _resumed(self, k: int, way: Way, mask: np.ndarray) -> Slice:
        """Return the last slice to which a way was followed, as it was when it was found."""
        return Slice.of(self.frame(k), mask if way.last is None else way.last)

    def _follow_part(self, anchor: Anchor, slices: range, resumed: Way) -> Way:
        """Follow the part that a correction takes away from what was there, or adds apart from it."""
        found: dict[int, SliceMask] = {}
        start, size = self.prompts.start, anchor.found.size
        nothing = np.zeros(size, dtype=bool)
        part = anchor.found.mask ^ start[anchor.k].mask
        if not part.any():
            return Way(found)
        marked = before = Slice.of(self.frame(anchor.k), part)
        for k in slices:
            was = start[k].mask if k in start else nothing
            if k in resumed.found:
                found[k] = resumed.found[k]
                if k + slices.step not in resumed.found:
                    before = self._resumed(k, resumed, found[k].mask ^ was)
                continue
            if self._is_late:
                return Way(found, Stop(anchor.k, k, OUT_OF_TIME), before.mask if found else None)
            here = Slice.of(self.frame(k))
            with current_clock().stage("follow"):
                step = self._follower.find(marked, before, here)
            probability = step.probability * (was if anchor.effect == "takes away" else ~was)
            if step.presence < self._options.min_presence or not (probability > 0.5).any():
                return Way(found, Stop(anchor.k, k, "as at the start", step.presence))
            mask = was ^ (probability > 0.5)
            found[k] = SliceMask.of(mask, self.predictor.logits_grid(size), "followed", step.score, step.presence)
            before = replace(here, mask=probability)
        return Way(found, Stop(anchor.k, slices.stop, "end of slices"))

    def _is_as_before(self, k: int, found: SliceMask) -> bool:
        """Return whether a slice's mask is that of the earlier result, which was followed to its end."""
        if self.earlier is None or not self.earlier.is_complete or k not in self.earlier.found:
            return False
        return dice(found.mask, self.earlier.found[k].mask) >= _SAME_DICE

    def _as_before(self, anchor: Anchor, k: int, slices: range, *, is_open: bool) -> Way | None:
        """Return the masks beyond slice k of the earlier result; None if prompts that are gone had led to them."""
        assert self.earlier is not None
        found: dict[int, SliceMask] = {}
        for j in range(k + slices.step, slices.stop, slices.step):
            one = self.earlier.found.get(j)
            if one is None or one.source == "start":
                ends = {stop.k: stop for stop in self.earlier.stops if (stop.k - stop.anchor) * slices.step > 0}
                return Way(found, replace(ends[j], anchor=anchor.k)) if j in ends else None
            if one.source == "prompts":
                return None
            found[j] = one
        return Way(found, Stop(anchor.k, slices.stop, "end of slices") if is_open else None)

    def _on_start(self, anchor: Anchor, k: int, step: Found) -> Found:
        """Return what was found from a correction: one that only adds to what was there does so here, too."""
        if anchor.effect is None or k not in self.prompts.start:
            return step
        return replace(step, probability=np.maximum(step.probability, self.prompts.start[k].mask.astype(np.float32)))

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


def covers(mask: np.ndarray, points: np.ndarray) -> bool:
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
    if not len(points) or any(part is not None for part in (prompts.box, prompts.mask_logits, prompts.area)):
        return logits
    pointed = np.zeros(grid.shape, dtype=bool)
    for point in points:
        pointed[grid.cell(tuple(point))] = True
    mask = touching(grid.mask(logits), pointed)
    return grid.only(logits, mask) if mask.any() else logits

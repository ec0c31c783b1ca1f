"""Follow an object through a volume with SAM 2's memory: the slices are the frames of a video.

Sources: Ravi et al. 2024, arXiv:2408.00714, section 4; facebookresearch/sam2, ``sam2/sam2_video_predictor.py``, whose
masks these are. That class reads its frames from JPEG files; here slices are encoded as they are reached.

After a correction that class follows the object through all slices again. Here, what is remembered of the slices is a
part of the result, and the object is followed from the corrected slice in both directions, each until its masks are as
they were before, or up to the next slice with prompts.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from lib.base.clock import Clock, current_clock, use_clock
from lib.sam.embeddings.cache import Embedding
from lib.sam.logits_grid import dice
from lib.sam.prompts import BACKGROUND, Prompts
from lib.sam.sam2_predictor import Sam2Predictor
from lib.sam.volume.corrections import corrected, correction_prompts
from lib.sam.volume.propagation import Progress, PropagationOptions, VolumePrompts, covers, propagate
from lib.sam.volume.result import OUT_OF_TIME, SliceMask, Source, Stop, VolumeResult
from lib.sam.volume.sam2_memory import Found, Memories, Sam2Step, SliceMemory, StepPrompts

T = TypeVar("T")

_MAX_ABSENT_SLICES = 5
"""The object has ended after this many slices in a row without it; after fewer, SAM 2's memory finds it again."""

_SAME_DICE, _SAME_SLICES = 0.99, 2
"""After a correction, a mask is as before from this Dice on; following ends after this many such slices in a row."""


@dataclass(frozen=True, eq=False)
class RememberedResult(VolumeResult):
    """A result with what a later call needs to correct it.

    Args:
        prompts: The prompts that it is the result of.
        memories: What is remembered of all slices that were reached: 0.5 MiB each for a model of 1024×1024.
    """

    prompts: VolumePrompts
    memories: Memories


@propagate.register
def propagate_by_memory(
    predictor: Sam2Predictor,
    frame: Callable[[int], np.ndarray],
    prompts: VolumePrompts,
    options: PropagationOptions | None = None,
    *,
    earlier: VolumeResult | None = None,
    until: float = math.inf,
) -> RememberedResult:
    """Segment the object on every slice on which SAM 2 finds it; arguments as of :func:`.propagation.propagate`.

    Slices are visited upwards from the first marked one, then downwards from it, as upstream does. Every slice uses
    the memory of all marked ones, or of the nearest eight. Background points on a slice without other prompts correct
    the mask there, and are remembered as prompts are.

    Args:
        predictor: The model.
        frame: Returns slice k, ``(H, W, 3)`` uint8 after windowing; called only for slices that are reached.
        prompts: The user's prompts.
        options: Only ``max_slices`` is used; SAM 2 has its own rules for when an object has ended.
        earlier: A result of the same volume, window and model. If no slice has lost its prompts since, the object is
            followed only from slices whose prompts are new or other than before, see :data:`_SAME_DICE`.
        until: As of :func:`.propagation.propagate`.

    Returns:
        The masks, without anchors or spans. A mask's ``score`` is SAM 2's predicted probability that the object is on
        the slice.

    Raises:
        PromptError: If a prompt is outside its slice.
        TimeLimitError: If the current clock's time is up.
    """
    options = options or PropagationOptions()
    rules = ("sam2", options, prompts.bounds, prompts.start_key)
    own = _on_start(predictor, prompts) if prompts.start else prompts
    if not own.marked:
        return RememberedResult(prompts.start, (), {}, {}, rules, own, Memories())
    with _LookAhead(predictor, frame, prompts.bounds) as ahead:
        if isinstance(earlier, RememberedResult) and earlier.rules == rules and _only_adds(own, earlier):
            tracker = _Tracker(predictor, frame, own, options.max_slices, ahead, until, earlier)
            tracker.correct(earlier.prompts)
        else:
            tracker = _Tracker(predictor, frame, own, options.max_slices, ahead, until)
            tracker.follow_all()
    found = {**prompts.start, **tracker.found}
    for k in prompts.start.keys() & own.marked.keys():
        found.pop(k)
        if k in tracker.found:
            found[k] = _corrected(predictor, prompts, k, tracker.found[k])
    for k in found.keys() & {k for k, marked in own.marked.items() if marked.encloses}:
        found[k] = _enclosed(predictor, own.marked[k], found[k])
    stops = tuple(tracker.stops.values())
    return RememberedResult(dict(sorted(found.items())), stops, {}, {}, rules, own, tracker.memories)


def _on_start(predictor: Sam2Predictor, prompts: VolumePrompts) -> VolumePrompts:
    """Return the prompts as corrections of the mask to start from, on the slices that it is on."""
    marked = {k: prompts.on_start(k) for k in prompts.marked}
    for k in prompts.background.keys() & prompts.start.keys():
        start, points = prompts.start[k], prompts.background[k]
        if covers(start.mask, points):
            grid = predictor.logits_grid(start.size)
            correction = correction_prompts(grid, start.logits.astype(np.float32), points, predictor.spec.prompts)
            if correction is not None:
                marked[k] = correction
    background = {k: points for k, points in prompts.background.items() if k not in marked}
    return replace(prompts, marked=marked, background=background)


def _corrected(predictor: Sam2Predictor, prompts: VolumePrompts, k: int, found: SliceMask) -> SliceMask:
    """Return what was found on a slice with prompts of the mask to start from; points change it where they ask to."""
    marked = prompts.marked.get(k)
    if marked is not None and not marked.is_points:
        return found
    points = prompts.background[k] if marked is None else marked.points
    labels = np.full(len(points), BACKGROUND) if marked is None else marked.labels
    mask = corrected(prompts.start[k].mask, found.mask, points, labels)
    return found.changed_to(mask, predictor.logits_grid(found.size))


def _only_adds(prompts: VolumePrompts, earlier: RememberedResult) -> bool:
    """Return whether the object was found, and all slices that had prompts have prompts of the same kind."""
    before = earlier.prompts
    is_kept = before.marked.keys() <= prompts.marked.keys() and before.background.keys() <= prompts.background.keys()
    return is_kept and bool(earlier.found)


def _enclosed(predictor: Sam2Predictor, prompts: Prompts, found: SliceMask) -> SliceMask:
    """Return what was found on a slice within a lasso."""
    logits = found.logits.astype(np.float32)[None]
    enclosed = predictor.enclosed(found.size, np.ones(1, np.float32), logits, prompts)
    packed = np.packbits(enclosed.masks[0])
    return replace(found, logits=enclosed.low_res_logits[0].astype(np.float16), packed=packed)


class _LookAhead:
    """Has workers encode slices before their turn, while others' requests leave some free; without workers, nothing.

    Args:
        predictor: The model.
        frame: Returns a slice.
        bounds: The volume's slices.
    """

    def __init__(self, predictor: Sam2Predictor, frame: Callable[[int], np.ndarray], bounds: range) -> None:
        self._predictor, self._frame, self._bounds = predictor, frame, bounds
        self._threads = ThreadPoolExecutor(max(1, predictor.helpers), "look-ahead")
        self._clock = Clock(gives_way=True)
        self._asked: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clock.cancel()
        self._threads.shutdown(cancel_futures=True)

    def want(self, slices: Iterable[int]) -> None:
        """Have slices encoded, those of them that are in the volume and were not asked for before."""
        for k in slices:
            if k in self._bounds and k not in self._asked:
                self._asked.add(k)
                self._threads.submit(self._encode, k)

    def _encode(self, k: int) -> None:
        with use_clock(self._clock), suppress(Exception):  # when its turn comes the error is met again
            self._predictor.encode(self._frame(k))


class _Tracker:
    """One object in one volume: its masks, its memory, and the steps that use and extend them.

    Args:
        predictor: The model.
        frame: Returns a slice.
        prompts: The user's prompts.
        max_slices: At most this many are followed beyond the first and the last marked one; None for no limit.
        ahead: Has slices encoded before their turn.
        until: As of :func:`propagate_by_memory`.
        earlier: The result to correct.
    """

    def __init__(
        self,
        predictor: Sam2Predictor,
        frame: Callable[[int], np.ndarray],
        prompts: VolumePrompts,
        max_slices: int | None,
        ahead: _LookAhead,
        until: float = math.inf,
        earlier: RememberedResult | None = None,
    ) -> None:
        self._predictor = predictor
        self._frame = frame
        self._prompts = prompts
        self._max_slices = max_slices
        self._until = until
        self._step = Sam2Step(predictor, prompts.bounds.stop)
        self._ahead = ahead
        self._progress = Progress()
        self._anchors = {1: max(prompts.marked), -1: min(prompts.marked)}
        self.memories = earlier.memories.copy() if earlier else Memories()
        self.found: dict[int, SliceMask] = dict(earlier.found) if earlier else {}
        self.stops: dict[int, Stop] = dict(zip((1, -1), earlier.stops, strict=True)) if earlier else {}
        self._before = {k: self.found.get(k) for k in self.memories.slices}
        """What was found earlier on the slices that were reached, None where the object was absent."""
        self._earlier: dict[int, SliceMemory] = {}
        """What was remembered of followed slices before a correction."""

    def follow_all(self) -> None:
        """Find the object on all slices."""
        for k in sorted(self._prompts.marked):
            self._mark(k)
        if self.found:
            for step in (1, -1):
                self._walk(self._anchors[-1], step)

    def correct(self, earlier: VolumePrompts) -> None:
        """Find the object where prompts have changed, and follow it from there as far as that changes its masks."""
        marked, background = self._prompts.marked, self._prompts.background
        changed = [k for k in sorted(marked) if k not in earlier.marked or marked[k].key != earlier.marked[k].key]
        for k in changed:
            self._mark(k)
        if self.found.keys().isdisjoint(marked):
            self.found, self.stops = {}, {}
            return
        is_corrected = bool(changed) or any(
            not np.array_equal(points, earlier.background.get(k, ())) for k, points in background.items()
        )
        if not is_corrected:
            for step, stop in list(self.stops.items()):
                if stop.reason == OUT_OF_TIME:
                    self._walk(stop.k - step, step)
            return
        for k in sorted((background.keys() & self.found.keys()) - marked.keys()):
            if not np.array_equal(background[k], earlier.background.get(k, ())):
                self._follow(k, in_reverse=k < self._anchors[-1])
                changed.append(k)
        self._earlier.update(self.memories.followed)  # may be wrong, as the user corrects it: no slice is to use it
        self.memories.followed.clear()
        for k in changed:
            for step in (1, -1):
                self._walk(k, step)
        kept = {k: memory for k, memory in self._earlier.items() if k not in self.memories.slices}
        self.memories.followed.update(kept)

    def _walk(self, start: int, step: int) -> None:
        """Follow the object from a slice to where it ends, or where all is as before, and note where it ended.

        Args:
            start: A slice with prompts.
            step: 1 for upwards, -1 for downwards.
        """
        anchor, k = self._anchors[step], start + step
        absent = same = 0
        while k in self._prompts.bounds:
            if k in self.memories.prompted:
                if self._before:
                    return
                absent, k = 0, k + step
                continue
            if time.monotonic() >= self._until:
                return self._end(k, step, OUT_OF_TIME)
            beyond = (k - anchor) * step
            if self._max_slices is not None and beyond > self._max_slices:
                return self._end(k, step, "max_slices")
            self._ahead.want(range(k + step, k + (self._predictor.helpers + 1) * step, step))
            self._follow(k, in_reverse=step < 0)
            if k in self.found and self._prompts.fits_start(k, self.found[k].mask):
                return self._end(k, step, "as at the start")
            absent = 0 if k in self.found else absent + 1
            same = same + 1 if self._is_as_before(k) else 0
            if beyond >= _MAX_ABSENT_SLICES and absent >= _MAX_ABSENT_SLICES:
                return self._end(k - (absent - 1) * step, step, "nothing found")
            k += step
            if same >= _SAME_SLICES:
                stop = self.stops[step]
                if stop.reason not in ("max_slices", OUT_OF_TIME):
                    return
                absent, same, k = 0, 0, stop.k  # more slices may be followed now
        return self._end(k, step, "end of slices")

    def _end(self, k: int, step: int, reason: str) -> None:
        """Note that the object's first slice without a mask is k, and drop what was found beyond it before."""
        absent = _MAX_ABSENT_SLICES if reason == "nothing found" else 0
        self.stops[step] = Stop(self._anchors[step], k, reason)
        for other in {*self.memories.slices, *self._earlier}:
            if (other - k) * step >= 0:
                self.found.pop(other, None)
            if (other - k) * step >= absent:
                self.memories.forget(other)
                self._earlier.pop(other, None)

    def _is_as_before(self, k: int) -> bool:
        if k not in self._before:
            return False
        before, now = self._before[k], self.found.get(k)
        if before is None or now is None:
            return before is now
        return dice(now.logits > 0, before.logits > 0) >= _SAME_DICE

    def _mark(self, k: int) -> None:
        """Find the object by a slice's own prompts, without memory; it is remembered for all other slices."""
        embedding = self._predictor.encode(self._frame(k))
        prompts = self._in_model_terms(self._prompts.marked[k], embedding.image_size)

        def find() -> Found:
            features = self._predictor.without_memory(embedding.features)
            return self._step.find(embedding, features, prompts, is_first=True)

        self._keep(k, embedding, self._on_device(find), "prompts")

    def _follow(self, k: int, *, in_reverse: bool) -> None:
        """Find the object by the memory of other slices, corrected by background points, which are remembered."""
        embedding = self._predictor.encode(self._frame(k))
        background = self._prompts.background.get(k)
        self.memories.forget(k)

        def find() -> tuple[Found, Source]:
            features = self._step.remembering(k, embedding, self.memories, in_reverse=in_reverse)
            found = self._step.find(embedding, features, StepPrompts(), is_first=False)
            if background is None or not bool((found.logits > 0).any()):
                return found, "followed"
            labels, logits = np.full(len(background), BACKGROUND), found.logits[0, 0].cpu().numpy()
            corrections = self._in_model_terms(Prompts(background, labels, mask_logits=logits), embedding.image_size)
            return self._step.find(embedding, features, corrections, is_first=False), "prompts"

        self._keep(k, embedding, *self._on_device(find))
        self._progress.show(k)

    def _keep(self, k: int, embedding: Embedding, found: Found, source: Source) -> None:
        """Remember what was found on a slice, and keep its mask if it is not empty."""
        self.memories.forget(k)
        memories = self.memories.prompted if source == "prompts" else self.memories.followed
        memories[k] = found.memory
        logits = found.logits[0, 0].cpu().numpy().astype(np.float16)
        shown = self._predictor.masks(found.logits, embedding.image_size)[0, 0].cpu().numpy()
        self.found.pop(k, None)
        if shown.any():
            score = 1 / (1 + math.exp(-found.presence))
            presence = 1.0 if source == "prompts" else score
            self.found[k] = SliceMask(logits, np.packbits(shown), embedding.image_size, source, score, presence)

    def _on_device(self, work: Callable[[], T]) -> T:
        def stage() -> T:
            with current_clock().stage("decode"), torch.inference_mode():
                return work()

        return self._predictor.on_device(stage)

    def _in_model_terms(self, prompts: Prompts, size: tuple[int, int]) -> StepPrompts:
        """Return prompts on a slice of this ``(height, width)`` for a step."""
        predictor = self._predictor
        prompts = predictor.on_image(prompts, size)
        points = predictor.point_inputs(prompts, size)
        if prompts.mask_logits is None:
            return StepPrompts(points)
        logits = torch.tensor(prompts.mask_logits, dtype=torch.float32, device=predictor.device)[None, None]
        if points is not None:
            return StepPrompts(points, logits)
        side = (predictor.module.image_size, predictor.module.image_size)
        return StepPrompts(mask=(F.interpolate(logits, side, mode="bilinear", align_corners=False) > 0).float())

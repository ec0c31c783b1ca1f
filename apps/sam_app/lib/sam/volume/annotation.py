"""One object in a three-dimensional array, as a user marks it step by step in any of its planes.

The object is followed along one axis, the working axis: that of the first plane in which something was drawn, else the
one with the thickest slices. What is marked in other planes is brought onto it: a slice of that plane is segmented by
itself, and points within what is found there mark the object on the slices that it crosses.

The mask depends only on the steps that are not undone, and on the model. Results of the last few states are kept, so
that undo and redo cost nothing and a further step reuses what it does not change.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.sam.logits_grid import dice
from lib.sam.packed_mask import tight_box
from lib.sam.predictor import Predictor
from lib.sam.prompts import BACKGROUND, FOREGROUND, PromptError, Prompts
from lib.sam.strokes import lasso_prompts, point_beside, stroke_points
from lib.sam.volume.interactions import Box, Interaction, Lasso, Point, Scribble, flat_axes
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts, propagate
from lib.sam.volume.result import SliceMask, VolumeResult
from lib.sam.volume.views import Picture, View

MAX_STEPS = 200
"""Steps of which the earliest are forgotten for undo, though not for the mask."""

_KEPT_RESULTS = 6

_CROSSING_POINTS = 8
"""Points that a slice of another plane puts on the slices which it crosses, at most."""

_REFINED_DICE = 0.6
"""What a slice of a mask is refined to must overlap with it so far, else the slice stays as it was."""

_TINY = 16
"""Pixels of a slice of a mask below which it is not refined."""


@dataclass(frozen=True, eq=False)
class _Start:
    """A mask to start from, packed, and whether every slice of it is to be refined."""

    packed: np.ndarray
    refine: bool


@dataclass
class _OnSlice:
    """The prompts of one slice of the working axis."""

    foreground: list[tuple[float, float]] = field(default_factory=list)
    background: list[tuple[float, float]] = field(default_factory=list)
    box: np.ndarray | None = None
    area: np.ndarray | None = None

    def prompts(self) -> Prompts | None:
        """Return the prompts; None if nothing marks the object."""
        if self.box is None and self.area is None and not self.foreground:
            return None
        labels = [FOREGROUND] * len(self.foreground) + [BACKGROUND] * len(self.background)
        points = np.array([*self.foreground, *self.background]).reshape(-1, 2)
        return Prompts(points, np.array(labels), self.box, area=self.area)


@dataclass
class _Marks:
    """All prompts on the working axis.

    Args:
        slices: By slice.
        beside: Areas beside the object.
        extents: Of boxes through slices.
    """

    slices: dict[int, _OnSlice] = field(default_factory=dict)
    beside: list[Box | Lasso] = field(default_factory=list)
    extents: list[range] = field(default_factory=list)

    def on(self, k: int) -> _OnSlice:
        """Return the prompts of slice k."""
        return self.slices.setdefault(k, _OnSlice())

    def bounds(self, count: int) -> range:
        """Return the slices that the object can be on: those of all boxes through slices, and all with prompts."""
        if not self.extents:
            return range(count)
        first = min([*(one.start for one in self.extents), *self.slices])
        return range(first, max([*(one.stop for one in self.extents), *(k + 1 for k in self.slices)]))


class Annotation:
    """One object in an array; not thread-safe.

    Args:
        shape: Of the array.
        spacing: Between voxels along each axis, in millimetres.
        picture: Returns a slice along an axis.
    """

    def __init__(self, shape: tuple[int, int, int], spacing: Sequence[float], picture: Picture) -> None:
        self._shape = shape
        self._spacing = tuple(float(step) for step in spacing)
        self._picture = picture
        self._steps: list[_Start | Interaction] = []
        self._done = 0
        self._results: OrderedDict[tuple[object, ...], VolumeResult] = OrderedDict()
        self._slices: dict[tuple[object, ...], np.ndarray] = {}
        self.is_complete = True
        """Whether the last :meth:`update` had the time to follow the object to its end."""

    @property
    def default_axis(self) -> int:
        """The axis of the thickest slices; among equals the shortest, then the first; none whose slices are lines."""
        lengths = self._shape
        flat = [axis for axis in range(3) if lengths[axis] == 1]
        axes = flat[:1] or range(3)
        return min(axes, key=lambda axis: (-self._spacing[axis], lengths[axis], axis))

    @property
    def nbytes(self) -> int:
        """Bytes that it holds: drawings, masks to start from, and the masks of the results."""
        drawn = sum(step.drawn.nbytes for step in self._steps if isinstance(step, (Scribble, Lasso)))
        starts = sum(step.packed.nbytes for step in self._steps if isinstance(step, _Start))
        masks = {id(mask): mask for result in self._results.values() for mask in _masks_of(result)}
        kept = sum(mask.logits.nbytes + mask.packed.nbytes for mask in masks.values())
        return drawn + starts + kept + sum(mask.nbytes for mask in self._slices.values())

    def counts(self) -> dict[str, int]:
        """Return the numbers of points, boxes, scribbles and lassos, and whether there is a mask to start from."""
        names = {Point: "points", Box: "boxes", Scribble: "scribbles", Lasso: "lassos", _Start: "masks"}
        _, interactions = self._state()
        counted = Counter(names[type(step)] for step in interactions)
        return dict.fromkeys(names.values(), 0) | counted | {"masks": int(self._state()[0] is not None)}

    def add(self, interaction: Interaction) -> None:
        """Add a step; those that were undone are gone.

        Raises:
            PromptError: If it is not inside the array.
        """
        for (first, last), size in zip(interaction.bounds, self._shape, strict=True):
            if not 0 <= first < last <= size:
                raise PromptError(
                    f"{interaction.bounds} is not inside the image of {self._shape} voxels, or has no extent"
                )
        self._push(interaction)

    def start_from(self, mask: np.ndarray, *, refine: bool = False) -> None:
        """Start from a mask: the prompts before it are over, those after it correct it. It is a step, too.

        Args:
            mask: Of the array's shape, bool; may be empty.
            refine: Whether the model is to improve every slice of it at once.

        Raises:
            PromptError: If it has another shape.
        """
        if mask.shape != self._shape:
            raise PromptError(f"the mask has {mask.shape} voxels, not {self._shape} as the image")
        self._push(_Start(np.packbits(mask), refine))

    def _push(self, step: _Start | Interaction) -> None:
        gone = set(self._steps[self._done :])
        del self._steps[self._done :]
        self._slices = {key: mask for key, mask in self._slices.items() if key[0] not in gone}
        self._steps.append(step)
        self._done += 1

    @property
    def _floor(self) -> int:
        return max(0, len(self._steps) - MAX_STEPS)

    def undo(self) -> bool:
        """Take back the last step; return whether there was one."""
        if self._done <= self._floor:
            return False
        self._done -= 1
        return True

    def redo(self) -> bool:
        """Do again what was taken back last; return whether there was something."""
        if self._done == len(self._steps):
            return False
        self._done += 1
        return True

    def reset(self) -> None:
        """Forget all steps."""
        self._steps, self._done = [], 0
        self._results.clear()
        self._slices.clear()
        self.is_complete = True

    def _state(self) -> tuple[_Start | None, list[Interaction]]:
        """Return the mask to start from, if there is one, and the interactions after it."""
        start: _Start | None = None
        interactions: list[Interaction] = []
        for step in self._steps[: self._done]:
            if isinstance(step, _Start):
                start, interactions = step, []
            else:
                interactions.append(step)
        return start, [step for step in interactions if isinstance(step, (Point, Box)) or not step.is_empty]

    def update(self, predictor: Predictor, *, through_volume: bool = True, seconds: float = math.inf) -> np.ndarray:
        """Return the mask of all steps that are not undone.

        Args:
            predictor: The model.
            through_volume: Whether the object is followed; if not, it is found only on slices with prompts.
            seconds: After these, what was found is returned; :attr:`is_complete` is false then, and another call goes
                on.

        Returns:
            Bool, of the array's shape; a new array.

        Raises:
            PromptError: If the model takes no prompts of such a kind.
            TimeLimitError: If the current clock's time is up.
        """
        until = time.monotonic() + seconds
        self.is_complete = True
        start, interactions = self._state()
        view = self._view(interactions)
        base = None if start is None else self._base(predictor, start, view, until)
        if not interactions:
            return np.zeros(self._shape, dtype=bool) if base is None else base
        marks = self._marks(predictor, view, interactions)
        found = self._follow(predictor, view, marks, base, through_volume, until)
        if found and self._mark_beside(view, marks, found):
            found = self._follow(predictor, view, marks, base, through_volume, until)
        if found is None:
            mask = np.zeros(self._shape, dtype=bool) if base is None else base
        else:
            mask = np.zeros(self._shape, dtype=bool)
            for k, one in found.items():
                view.slices(mask)[k] = view.mask(one.mask)
        for step in marks.beside:
            mask[_place_of(step)] &= False if isinstance(step, Box) else ~step.drawn
        return mask

    def _mark_beside(self, view: View, marks: _Marks, found: Mapping[int, SliceMask]) -> bool:
        """Put a background point into each area beside the object that is on its mask; return whether there is one."""
        any_on_mask = False
        for step in marks.beside:
            first, last = step.bounds[view.axis]
            for k in found.keys() & {(first + last) // 2}:
                if (point := point_beside(found[k].mask, _area_on(view, step, k))) is not None:
                    marks.on(k).background.append(point)
                    any_on_mask = True
        return any_on_mask

    def _view(self, interactions: Sequence[Interaction]) -> View:
        planar = next((step for step in interactions if not isinstance(step, Point) and flat_axes(step)), None)
        axis = self.default_axis
        if planar is not None:
            flat = [a for a in flat_axes(planar) if all(self._shape[b] > 1 for b in range(3) if b != a)]
            axis = axis if axis in flat or not flat else flat[0]
        return View.along(axis, self._shape, self._spacing)

    def _base(self, predictor: Predictor, start: _Start, view: View, until: float) -> np.ndarray:
        """Return the mask to start from, refined if that was asked for and as far as there was time."""
        mask = np.unpackbits(start.packed, count=math.prod(self._shape)).reshape(self._shape).astype(bool)
        if not start.refine or "box" not in predictor.spec.prompts:
            return mask
        slices, picture = view.slices(mask), view.picture(self._picture)
        for k in np.flatnonzero(slices.any(axis=(1, 2))).tolist():
            if slices[k].sum() < _TINY:
                continue
            key = (start, view.axis, k, predictor.title)
            if key not in self._slices:
                if time.monotonic() >= until:
                    self.is_complete = False
                    break
                area = view.pixels(slices[k])
                embedding = predictor.encode(picture(k))
                [prediction] = predictor.decode(embedding, [Prompts(box=tight_box(area), area=area)])
                found = view.mask(prediction.masks[0])
                self._slices[key] = found if dice(found, slices[k]) >= _REFINED_DICE else slices[k].copy()
            slices[k] = self._slices[key]
        return mask

    def _marks(self, predictor: Predictor, view: View, interactions: Sequence[Interaction]) -> _Marks:
        """Return all prompts on the working axis."""
        marks = _Marks()
        for step in interactions:
            if isinstance(step, Point):
                k, x, y = view.place(step.coordinates)
                on = marks.on(k)
                (on.foreground if step.is_foreground else on.background).append((x, y))
            elif isinstance(step, Scribble):
                for index in stroke_points(step.drawn):
                    k, x, y = view.place((index + step.corner).tolist())
                    on = marks.on(k)
                    (on.foreground if step.is_foreground else on.background).append((x, y))
            else:
                self._mark_area(predictor, view, marks, step)
        return marks

    def _mark_area(self, predictor: Predictor, view: View, marks: _Marks, step: Box | Lasso) -> None:
        """Add a box's or a lasso's prompts."""
        flat = flat_axes(step)
        if not step.is_foreground:
            marks.beside.append(step)
        elif view.axis in flat:
            self._mark_plane(predictor, view, marks, step, step.bounds[view.axis][0])
        elif flat:
            self._mark_crossing(predictor, view, marks, step, flat[0])
        else:
            first, last = step.bounds[view.axis]
            marks.extents.append(range(first, last))
            self._mark_plane(predictor, view, marks, step, (first + last) // 2)

    def _mark_plane(self, predictor: Predictor, view: View, marks: _Marks, step: Box | Lasso, k: int) -> None:
        asked = self._in_plane(predictor, view, step)
        on = marks.on(k)
        on.box, on.area = asked.box, asked.area
        on.foreground.extend(map(tuple, asked.points.tolist()))

    def _in_plane(self, predictor: Predictor, view: View, step: Box | Lasso) -> Prompts:
        """Return the prompts of a box or a lasso on the slice in which it lies."""
        if isinstance(step, Box):
            return Prompts(box=view.edges(step.bounds))
        return lasso_prompts(_area_on(view, step, step.bounds[view.axis][0]), predictor.spec.prompts)

    def _mark_crossing(self, predictor: Predictor, view: View, marks: _Marks, step: Box | Lasso, axis: int) -> None:
        """Segment the slice of another plane by itself, and mark the object on slices of the working axis by it."""
        other = View.along(axis, self._shape, self._spacing)
        k = step.bounds[axis][0]
        key = (step, predictor.title)
        if key not in self._slices:
            embedding = predictor.encode(other.picture(self._picture)(k))
            [prediction] = predictor.decode(embedding, [self._in_plane(predictor, other, step)])
            self._slices[key] = other.mask(prediction.masks[0])
        found = np.zeros(self._shape, dtype=bool)
        other.slices(found)[k] = self._slices[key]
        slices = view.slices(found)
        crossed = np.flatnonzero(slices.any(axis=(1, 2)))
        for j in crossed[:: max(1, math.ceil(len(crossed) / 6))][:_CROSSING_POINTS].tolist():
            run = np.argwhere(slices[j])
            row, column = run[len(run) // 2].tolist()
            index = [row, column]
            index.insert(view.axis, j)
            _, x, y = view.place(index)
            marks.on(j).foreground.append((x, y))

    def _follow(
        self,
        predictor: Predictor,
        view: View,
        marks: _Marks,
        base: np.ndarray | None,
        through_volume: bool,
        until: float,
    ) -> Mapping[int, SliceMask] | None:
        """Return the object by slice; None if nothing marks it."""
        asked = {k: on.prompts() for k, on in marks.slices.items()}
        marked = {k: prompts for k, prompts in asked.items() if prompts is not None}
        background = {k: np.array(on.background) for k, on in marks.slices.items() if k not in marked and on.background}
        start = {} if base is None else self._start_masks(predictor, view, base)
        if not marked and not (background and start):
            return None
        bounds = marks.bounds(view.count)
        if start:
            bounds = range(min(bounds.start, *start), max(bounds.stop, *(k + 1 for k in start)))
        if through_volume:
            prompts = VolumePrompts(marked, background, bounds, start)
            return self._propagated(predictor, view, prompts, until, marked)
        found = dict(start)
        for k in sorted({*marked, *(background.keys() & start.keys())}):
            alone = VolumePrompts(
                {k: marked[k]} if k in marked else {},
                {k: background[k]} if k in background else {},
                range(k, k + 1),
                {k: start[k]} if k in start else {},
            )
            here = self._propagated(predictor, view, alone, until, {k: marked.get(k)})
            found.pop(k, None)
            found.update(here)
        return found

    def _propagated(
        self, predictor: Predictor, view: View, prompts: VolumePrompts, until: float, state: Mapping[int, object]
    ) -> Mapping[int, SliceMask]:
        """Follow the object, reusing results of the last states."""
        parts = [(k, one.key) for k, one in sorted(prompts.marked.items())]
        parts += [(k, one.tobytes()) for k, one in sorted(prompts.background.items())]
        key = (predictor.title, view.axis, prompts.bounds, prompts.start_key, *parts)
        result = self._results.get(key)
        if result is None or not result.is_complete:
            earlier = result or self._nearest_result(key)
            frame = view.picture(self._picture)
            result = propagate(predictor, frame, prompts, PropagationOptions(), earlier=earlier, until=until)
        self._results[key] = result
        self._results.move_to_end(key)
        while len(self._results) > _KEPT_RESULTS:
            self._results.popitem(last=False)
        self.is_complete = self.is_complete and result.is_complete
        return result.found

    def _nearest_result(self, key: tuple[object, ...]) -> VolumeResult | None:
        """Return the result of the state that has most in common with one."""

        def common(other: tuple[object, ...]) -> int:
            return len(set(key[4:]) & set(other[4:])) if other[:4] == key[:4] else -1

        best = max(self._results, key=common, default=None)
        return self._results[best] if best is not None and common(best) >= 0 else None

    def _start_masks(self, predictor: Predictor, view: View, base: np.ndarray) -> dict[int, SliceMask]:
        """Return the mask to start from by slice."""
        grid = predictor.logits_grid(view.size)
        slices = view.slices(base)
        marked = np.flatnonzero(slices.any(axis=(1, 2))).tolist()
        return {k: SliceMask.of(view.pixels(slices[k]), grid) for k in marked}


def _place_of(step: Box | Lasso) -> tuple[slice, ...]:
    """Return the voxels of the array within a step's bounds."""
    return tuple(slice(first, last) for first, last in step.bounds)


def _area_on(view: View, step: Box | Lasso, k: int) -> np.ndarray:
    """Return what a step marks on slice k of its bounds, ``(height, width)`` bool."""
    rows, columns = (slice(first, last) for axis, (first, last) in enumerate(step.bounds) if axis != view.axis)
    area = np.zeros(view.voxels, dtype=bool)
    drawn = True if isinstance(step, Box) else view.slices(step.drawn)[k - step.bounds[view.axis][0]]
    area[rows, columns] = drawn
    return view.pixels(area)


def _masks_of(result: VolumeResult) -> list[SliceMask]:
    found = [part for span in result.spans.values() for part in (span.found, *(way.found for way in span.ways))]
    spans = itertools.chain.from_iterable(masks.values() for masks in found)
    return [*result.found.values(), *spans, *(anchor.found for anchor in result.anchors.values())]

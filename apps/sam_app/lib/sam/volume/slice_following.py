"""One step of a propagation: find the object on a slice from its mask on the previous slice.

SAM models keep close to a box, even where the object has become smaller or larger; without a box they follow the
image, and can leave the object. Therefore several sets of prompts are decoded for every piece of the object, and the
candidate that best fits the object's appearance and previous position is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from lib.sam.embeddings.cache import Embedding
from lib.sam.logits_grid import LogitsGrid, depth, dice, grown, innermost, parts, touching
from lib.sam.models.registry import PromptKind
from lib.sam.predictor import Predictor
from lib.sam.prompts import BACKGROUND, FOREGROUND, Prompts
from lib.sam.volume.appearance import Appearance

_MAX_PIECES = 6
"""This many of an object's largest pieces are followed individually; the others only together with them."""

_MIN_PIECE_SHARE = 0.05
"""Area of the smallest piece, as a share of the largest one's; smaller ones are noise."""

_MIN_LIKELIHOOD = 0.7
"""Likelihood above which a cell is expected to belong to the object."""

_REACH_CELLS = 4.0
"""Cells that an object's border can move from one slice to the next, plus"""
_REACH_BY_SIDE = 0.2
"""this many times the square root of its area."""

_SMOOTHING = 0.05
"""Sigma in cells as a share of the square root of the object's area, but"""
_MAX_SMOOTHING = 1.5
"""at most this."""

_MIN_CONTRAST = 0.3
"""Contrast above which object and surroundings can be separated cell by cell."""


@dataclass(frozen=True)
class FollowingOptions:
    """Limits that decide whether the object is on a slice or has ended.

    The defaults were found with ``sam_tiny`` on the volumes of ``benchmarks/volumes.py``, seeds 0 and 2; its
    ``--set NAME VALUE`` measures others. Its predicted IoU says little, so ``min_score`` is 0.

    Args:
        min_overlap: Dice of the masks of two neighbouring slices, on the grid of the logits.
        min_likeness: Mean likelihood under the mask, as a share of that under the marked slices' own masks.
        max_growth: Area of the mask over that on the slice before; its inverse bounds how much it can shrink.
        min_score: Predicted IoU.
        min_cells: Area on a grid of 256 x 256 cells.
        margin: Added to each side of a box, as a share of the box.
        good_fit: A candidate that fits the expected mask this well is used without trying other prompts. Trying
            all gained 0.006 mean Dice a step over the first prompts alone, in three times the time.
    """

    min_overlap: float = 0.4
    min_likeness: float = 0.7
    max_growth: float = 3.0
    min_score: float = 0.0
    min_cells: int = 4
    margin: float = 0.05
    good_fit: float = 0.9


@dataclass(frozen=True, eq=False)
class EncodedSlice:
    """A slice after encoding.

    Args:
        embedding: Of the windowed frame.
        grid: The grid of its masks' logits.
        grey: Grey values ``(rows, columns)`` on that grid, 0 to 255.
    """

    embedding: Embedding
    grid: LogitsGrid
    grey: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """The object on one slice.

    Args:
        logits: ``(S, S)`` float32, negative outside the object's own pieces.
        score: Predicted IoU.
        overlap: Dice with the previous slice.
        likeness: As in :class:`FollowingOptions`.
    """

    logits: np.ndarray
    score: float
    overlap: float
    likeness: float


class ObjectLostError(Exception):
    """The object is not on this slice any more.

    The message says by which rule: ``nothing found``, ``overlap``, ``area``, ``appearance`` or ``score``.
    """


def encode_slice(predictor: Predictor, frame: np.ndarray) -> EncodedSlice:
    """Encode a windowed frame, ``(H, W, 3)`` uint8, or take its embedding from the cache."""
    embedding = predictor.encode(frame)
    grid = predictor.logits_grid(embedding.image_size)
    return EncodedSlice(embedding, grid, grid.grey(frame))


def follow(
    predictor: Predictor, here: EncodedSlice, logits: np.ndarray, memory: Appearance, options: FollowingOptions
) -> Step:
    """Find the object on a slice.

    Args:
        predictor: Decodes.
        here: The slice.
        logits: ``(S, S)`` of the object on the previous slice; their mask is not empty.
        memory: The object's appearance.
        options: Limits that decide whether it has ended.

    Raises:
        ObjectLostError: If it is not on the slice.
    """
    before = here.grid.mask(logits)
    likely = memory.likelihood(here.grey)
    scene = _Scene(here, logits, before, likely, _expected(before, likely), memory, options)
    candidates = [scene.best_candidate(predictor, *piece) for piece in scene.pieces()]
    together = np.max([candidate.logits for candidate in candidates], axis=0)
    return scene.checked(together, score=float(np.mean([candidate.score for candidate in candidates])))


def _expected(before: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Return the expected mask: cells near and connected to the previous mask that look like the object, smoothed."""
    side = float(np.sqrt(before.sum()))
    smooth = ndimage.gaussian_filter(likely, min(_MAX_SMOOTHING, _SMOOTHING * side))
    return touching((smooth > _MIN_LIKELIHOOD) & grown(before, _REACH_CELLS + _REACH_BY_SIDE * side), before)


@dataclass(frozen=True, eq=False)
class _Candidate:
    logits: np.ndarray
    score: float
    fit: float


@dataclass(frozen=True, eq=False)
class _Scene:
    """A slice, and what is known about the object on it.

    Args:
        here: The slice.
        logits: ``(S, S)`` of the previous slice.
        before: The previous slice's mask, ``(rows, columns)``.
        likely: How much each cell looks like the object.
        expected: The expected mask by that alone, see :func:`_expected`.
        memory: The object's appearance.
        options: Limits that decide whether it has ended.
    """

    here: EncodedSlice
    logits: np.ndarray
    before: np.ndarray
    likely: np.ndarray
    expected: np.ndarray
    memory: Appearance
    options: FollowingOptions

    def pieces(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the largest pieces of the object, each with the part of the previous mask that contains it.

        Where object and surroundings can be separated, a piece still looks like the object on this slice: there are
        two where a vessel branches.
        """
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        for part in parts(self.before, _MAX_PIECES):
            alike = parts(part & self.expected, _MAX_PIECES) if self.memory.contrast > _MIN_CONTRAST else []
            pieces.extend([(piece, part) for piece in alike] or [(part, part)])
        pieces.sort(key=lambda pair: -int(pair[0].sum()))
        least = _MIN_PIECE_SHARE * pieces[0][0].sum()
        return [pair for pair in pieces if pair[0].sum() >= least][:_MAX_PIECES]

    def best_candidate(self, predictor: Predictor, piece: np.ndarray, part: np.ndarray) -> _Candidate:
        """Return the best fitting candidate for a piece; further prompts are tried only while none fits well."""
        wanted, sure = touching(self.expected, piece), self.memory.contrast
        best: _Candidate | None = None
        for prompts in self._prompt_sets(piece, part, wanted, predictor.spec.prompts):
            prediction = predictor.decode(self.here.embedding, [prompts])[0]
            logits = prediction.low_res_logits[0]
            mask = touching(self.here.grid.mask(logits), self.before)
            fit = sure * dice(mask, wanted) + (1 - sure) * dice(mask, part)
            if best is None or fit > best.fit:
                best = _Candidate(self.here.grid.only(logits, mask), float(prediction.scores[0]), fit)
            if best.fit >= self.options.good_fit:
                break
        assert best is not None
        return best

    def _prompt_sets(
        self, piece: np.ndarray, part: np.ndarray, wanted: np.ndarray, kinds: Sequence[PromptKind]
    ) -> list[Prompts]:
        """Return the sets of prompts for one piece, of these kinds, the most promising first."""
        grid = self.here.grid
        mask = self.logits if "mask" in kinds else None
        point = Prompts(
            points=np.array([grid.point(innermost(piece))]), labels=np.array([FOREGROUND]), mask_logits=mask
        )
        boxes = [grid.box(part, self.options.margin)]
        if wanted.any():
            boxes.insert(0, grid.box(wanted, self.options.margin))
        if "point" not in kinds:
            return [Prompts(box=box) for box in boxes]
        return [*(replace(point, box=box) for box in boxes if "box" in kinds), point]

    def checked(self, logits: np.ndarray, score: float) -> Step:
        """Return the step if the result keeps to the limits.

        Raises:
            ObjectLostError: If it does not.
        """
        mask, options = self.here.grid.mask(logits), self.options
        if mask.sum() < options.min_cells * (self.here.grid.side / 256) ** 2:
            raise ObjectLostError("nothing found")
        overlap = dice(mask, self.before)
        if overlap < options.min_overlap:
            raise ObjectLostError("overlap")
        if not 1 / options.max_growth <= mask.sum() / self.before.sum() <= options.max_growth:
            raise ObjectLostError("area")
        likeness = float(self.likely[mask].mean()) / self.memory.typical
        if likeness < options.min_likeness:
            raise ObjectLostError("appearance")
        if score < options.min_score:
            raise ObjectLostError("score")
        return Step(logits, score, overlap, likeness)


def correction_prompts(
    grid: LogitsGrid, logits: np.ndarray, background: np.ndarray, kinds: Sequence[PromptKind]
) -> Prompts | None:
    """Return prompts that remove background points from a mask.

    SAM models also need a foreground point: it is put deep inside the mask and far from the background points.

    Args:
        grid: Of the slice.
        logits: ``(S, S)`` of the mask.
        background: ``(N, 2)`` points, XY.
        kinds: Of prompts that the model was trained with.

    Returns:
        None if nothing of the mask remains.
    """
    mask = grid.mask(logits)
    not_background = np.ones(grid.shape, dtype=bool)
    for point in background:
        not_background[grid.cell((point[0], point[1]))] = False
    room = np.minimum(depth(mask), ndimage.distance_transform_edt(not_background))
    if room.max() < 1:
        return None
    row, column = np.unravel_index(int(np.argmax(room)), room.shape)
    return Prompts(
        points=np.array([grid.point((int(row), int(column))), *background]),
        labels=np.array([FOREGROUND] + [BACKGROUND] * len(background)),
        mask_logits=logits if "mask" in kinds else None,
    )

"""One step of a propagation: the object on a slice, from where it was on the slice before.

A box is followed closely by SAM models, also where the object has become smaller or larger since; without one they
follow the image, and can leave the object. Therefore several sets of prompts are decoded for every piece of the
object, and the answer that fits best what the object looks like and where it was is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from lib.sam.embeddings.cache import Embedding
from lib.sam.logits_grid import LogitsGrid, depth, dice, grown, innermost, parts, touching
from lib.sam.predictor import Predictor
from lib.sam.prompts import BACKGROUND, FOREGROUND, Prompts
from lib.sam.volume.appearance import Appearance

_MAX_PIECES = 6
"""Pieces of an object that are followed each by itself; smaller ones are followed only together with them."""

_MIN_PIECE = 0.05
"""Smallest piece by the largest one's area; smaller ones are noise."""

_ALIKE = 0.7
"""Likelihood from which a cell is expected to be of the object."""

_REACH = 4.0
"""Cells that an object's border can move from one slice to the next, and"""
_REACH_BY_SIDE = 0.2
"""that much more by the square root of its area."""

_SMOOTHING = 0.05
"""Sigma by the square root of the object's area, and"""
_MAX_SMOOTHING = 1.5
"""at most so many cells."""

_TELLING = 0.3
"""Contrast from which single cells can be told apart."""


@dataclass(frozen=True)
class FollowingOptions:
    """When the object is on a slice, and when it has ended.

    The defaults were found with ``sam_tiny`` on the volumes of ``benchmarks/volumes.py``, seeds 0 and 2; its
    ``--set NAME VALUE`` measures others. Its predicted IoU tells little, so that there is no bound on it.

    Args:
        min_overlap: Dice of the masks of two slices, on the grid of the logits.
        min_likeness: How much the mask looks like the object, as a share of what the marked slices' own masks do.
        max_growth: Area of the mask over that on the slice before; its inverse bounds how much it can shrink.
        min_score: Predicted IoU.
        min_cells: Area on the 256 x 256 grid.
        margin: Added to each side of a box, as a share of the box.
        good_fit: An answer that fits what is expected so well is taken at once, without trying other prompts. Trying
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
    """A slice that was reached.

    Args:
        embedding: Of the windowed frame.
        grid: Of its masks' logits.
        grey: ``(rows, columns)`` on that grid, 0 to 255.
    """

    embedding: Embedding
    grid: LogitsGrid
    grey: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """The object on one slice.

    Args:
        logits: ``(256, 256)`` float32, negative outside the object's own pieces.
        score: Predicted IoU.
        overlap: Dice with the slice before.
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
    """Encode a frame, ``(H, W, 3)`` uint8 after windowing, or take its embedding from the cache."""
    embedding = predictor.encode(frame)
    grid = predictor.logits_grid(embedding.image_size)
    return EncodedSlice(embedding, grid, grid.grey(frame))


def follow(
    predictor: Predictor, here: EncodedSlice, logits: np.ndarray, memory: Appearance, options: FollowingOptions
) -> Step:
    """The object on a slice.

    Args:
        predictor: Decodes.
        here: The slice.
        logits: ``(256, 256)`` of the object on the slice before, where its mask is not empty.
        memory: What the object looks like.
        options: When it has ended.

    Raises:
        ObjectLostError: If it is not there.
    """
    before = here.grid.mask(logits)
    likely = memory.likelihood(here.grey)
    scene = _Scene(here, logits, before, likely, _expected(before, likely), memory, options)
    answers = [scene.best_candidate(predictor, *piece) for piece in scene.pieces()]
    together = np.max([answer.logits for answer in answers], axis=0)
    return scene.checked(together, score=float(np.mean([answer.score for answer in answers])))


def _expected(before: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """What looks like the object, is within reach of the mask before and touches it; without specks and fringes."""
    side = float(np.sqrt(before.sum()))
    smooth = ndimage.gaussian_filter(likely, min(_MAX_SMOOTHING, _SMOOTHING * side))
    return touching((smooth > _ALIKE) & grown(before, _REACH + _REACH_BY_SIDE * side), before)


@dataclass(frozen=True, eq=False)
class _Answer:
    logits: np.ndarray
    score: float
    fit: float


@dataclass(frozen=True, eq=False)
class _Scene:
    """A slice, and what is known of the object on it.

    Args:
        here: The slice.
        logits: ``(256, 256)`` of the slice before.
        before: Its mask, ``(rows, columns)``.
        likely: How much each cell looks like the object.
        expected: The mask to expect by that alone, see :func:`_expected`.
        memory: What the object looks like.
        options: When it has ended.
    """

    here: EncodedSlice
    logits: np.ndarray
    before: np.ndarray
    likely: np.ndarray
    expected: np.ndarray
    memory: Appearance
    options: FollowingOptions

    def pieces(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """What to put a point on, and the part of the mask before that it is in; the largest pieces.

        Where the object can be told from its surroundings, the pieces are those of it that still look like it: there
        are two where a vessel branches.
        """
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        for part in parts(self.before, _MAX_PIECES):
            alike = parts(part & self.expected, _MAX_PIECES) if self.memory.contrast > _TELLING else []
            pieces.extend([(piece, part) for piece in alike] or [(part, part)])
        pieces.sort(key=lambda pair: -int(pair[0].sum()))
        least = _MIN_PIECE * pieces[0][0].sum()
        return [pair for pair in pieces if pair[0].sum() >= least][:_MAX_PIECES]

    def best_candidate(self, predictor: Predictor, piece: np.ndarray, part: np.ndarray) -> _Answer:
        """The answer for a piece that fits best; the next prompts are tried only while none fits well."""
        wanted, sure = touching(self.expected, piece), self.memory.contrast
        best: _Answer | None = None
        for prompts in self._asked(piece, part, wanted):
            prediction = predictor.decode(self.here.embedding, [prompts])[0]
            logits = prediction.low_res_logits[0]
            mask = touching(self.here.grid.mask(logits), self.before)
            fit = sure * dice(mask, wanted) + (1 - sure) * dice(mask, part)
            if best is None or fit > best.fit:
                best = _Answer(self.here.grid.only(logits, mask), float(prediction.scores[0]), fit)
            if best.fit >= self.options.good_fit:
                break
        assert best is not None
        return best

    def _asked(self, piece: np.ndarray, part: np.ndarray, wanted: np.ndarray) -> list[Prompts]:
        """The sets of prompts for one piece, the most promising first."""
        grid = self.here.grid
        point = Prompts(
            points=np.array([grid.point(innermost(piece))]), labels=np.array([FOREGROUND]), mask_logits=self.logits
        )
        boxes = [grid.box(part, self.options.margin)]
        if wanted.any():
            boxes.insert(0, grid.box(wanted, self.options.margin))
        return [*(replace(point, box=box) for box in boxes), point]

    def checked(self, logits: np.ndarray, score: float) -> Step:
        """The answer as a step.

        Raises:
            ObjectLostError: If it is none.
        """
        mask, options = self.here.grid.mask(logits), self.options
        if mask.sum() < options.min_cells:
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


def correction_prompts(grid: LogitsGrid, logits: np.ndarray, background: np.ndarray) -> Prompts | None:
    """Prompts for what remains of a mask with background points on it.

    SAM models need to be shown the object, too: where it is deepest inside and far from the background points.

    Args:
        grid: Of the slice.
        logits: ``(256, 256)`` of the mask.
        background: ``(N, 2)`` points, XY.

    Returns:
        None if nothing remains.
    """
    mask = grid.mask(logits)
    beside = np.ones(grid.shape, dtype=bool)
    for point in background:
        beside[grid.cell((point[0], point[1]))] = False
    room = np.minimum(depth(mask), ndimage.distance_transform_edt(beside))
    if room.max() < 1:
        return None
    row, column = np.unravel_index(int(np.argmax(room)), room.shape)
    return Prompts(
        points=np.array([grid.point((int(row), int(column))), *background]),
        labels=np.array([FOREGROUND] + [BACKGROUND] * len(background)),
        mask_logits=logits,
    )

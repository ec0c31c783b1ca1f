"""Task that segments one slice with SAM, from prompts of a viewer or of the REST API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from lib.infers.click_memory import ClickMemory
from lib.infers.facts import made_by, result_facts
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_task import SamTask
from lib.sam.automatic import segment_automatically
from lib.sam.embeddings.cache import Embedding
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Prediction, Predictor
from lib.sam.prompts import Prompts
from lib.sam.refinement import EarlierObject, area_key, continue_from, find_earlier, is_unchanged
from lib.sam.strokes import point_beside, with_points
from lib.sam.volume.corrections import corrected
from lib.transforms.load import LoadMedicalImage, LoadMedicalImaged, SentLabeld
from lib.transforms.masks import BestMasksd, CleanMasksd, CutMasksd, FrameToVolumed, MergeMasksd
from lib.transforms.present_labels import ProtectLabeld, slice_of
from lib.transforms.prompt_sources import PromptSourced, RestoreValuesd
from lib.transforms.request import REQUEST, SegmentRequest, Source
from lib.transforms.sam_input_prompts import SamInputPromptsd
from lib.transforms.viewer_options import CANDIDATES, WINDOWS
from lib.transforms.viewer_prompts import ViewerPromptsd
from lib.transforms.window import WindowFramed

_STEPS = 32
"""Masks of a picture and object from which a client can go on, or to which it can return."""


class Sam2D(SamTask):
    """One SAM model as a MONAI Label task for one slice at a time.

    The request's source says in which format its prompts are, see :mod:`lib.transforms.sam_input_prompts` and
    :mod:`lib.transforms.viewer_prompts`, or where they come from instead, see :mod:`lib.transforms.prompt_sources`.
    Without the option ``multimask`` the model's spec decides whether a single point returns the best of three
    candidates; all other prompts return the single mask.

    Clicks of one client refine: prompts that extend its previous ones on the same picture for the same object start
    from their mask, and those that it had sent before give the mask that they gave then. Options that viewers show:
    ``window``, ``candidates``, ``box_from_points``, ``largest_component``, ``fill_holes``.

    Args:
        ahead: Prefetches for the next click after each click of a viewer; shared by all tasks.
        others: As of :class:`SamTask`.
    """

    DIMENSION = 2
    facts = staticmethod(result_facts)
    OPTIONS: ClassVar[dict[str, Any]] = {
        "window": WINDOWS,
        "candidates": CANDIDATES,
        "box_from_points": False,
        "largest_component": False,
        "fill_holes": False,
    }

    def __init__(self, *others: Any, ahead: Prefetcher | None = None) -> None:
        super().__init__(*others)
        self._memory: ClickMemory[EarlierObject] = ClickMemory(_STEPS)
        self._prefetcher = ahead

    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms that load the image, map the prompts, choose the slice and window it."""
        limits = self._limits
        request: SegmentRequest = data[REQUEST]
        load = LoadMedicalImaged(limits, self._images, request.image_key)
        prompts: Callable
        if request.source is Source.REST:
            prompts = SamInputPromptsd(limits, self._spec.prompts, LoadMedicalImage(limits))
        elif request.source is Source.VIEWER:
            prompts = ViewerPromptsd(limits, self._spec.prompts, load.load)
        else:
            prompts = PromptSourced(load.load)
        protect = ProtectLabeld(LoadMedicalImage(limits))
        return [load, SentLabeld(load.load), prompts, protect, WindowFramed()]

    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Encode the slice (or take its embedding from the cache) and decode its objects, in batches if possible."""
        request: SegmentRequest = data[REQUEST]
        predictor = self._engine.predictor(self.engine_model)
        embedding = predictor.encode(data["frame"])
        if data["objects"] and request.source is Source.VIEWER:
            data["predictions"] = self._segment_click(predictor, embedding, request, data)
            if self._prefetcher:
                user, window = request.client or "", request.options.window
                self._prefetcher.clicked(self.engine_model, user, data["image"], data["slice"], window)
        elif data["objects"]:
            data["predictions"] = self._segment(predictor, embedding, data, data["earlier"])
        elif request.automatic:
            data["predictions"] = segment_automatically(predictor, embedding)
        else:
            data["predictions"] = []
        data["made_by"] = made_by(predictor)
        areas = list(data["beside"])
        if data["protected"] is not None:
            areas.append(slice_of(data["protected"], data["slice"]))
        data["cut"] = np.logical_or.reduce(areas) if areas else None
        if areas:
            data["predictions"] = [prediction.without(data["cut"]) for prediction in data["predictions"]]
        return data

    def _segment_click(
        self, predictor: Predictor, embedding: Embedding, request: SegmentRequest, data: Mapping[str, Any]
    ) -> list[Prediction]:
        """Segment a viewer's object, starting from that of the client's masks there whose prompts these extend."""
        key = (request.client or "", embedding.key, request.object_name or "")
        known = self._memory.recall(key) if request.client and data["start"] is None else ()
        [prediction] = self._segment(predictor, embedding, data, known[::-1])
        is_known = any(one.low_res_logits is prediction.low_res_logits for one in known)
        if request.client and not is_known:
            [prompts] = data["objects"]
            result = EarlierObject.of(prompts, prediction.scores, prediction.low_res_logits, data["beside"])
            self._memory.remember(key, result)
        return [prediction]

    def _segment(
        self,
        predictor: Predictor,
        embedding: Embedding,
        data: Mapping[str, Any],
        earlier_objects: Sequence[EarlierObject],
    ) -> list[Prediction]:
        """Return one prediction per object; one that extends an earlier object refines its mask, or reuses it.

        A mask to start from is changed only as far as points ask for it. What of a mask is within an area beside the
        object is a mistake: its innermost point becomes a negative one, if the model takes points.
        """
        start: np.ndarray | None = data["start"]
        areas = {area_key(area): area for area in data["beside"]}
        multimask = data[REQUEST].options.multimask
        questions = [
            self._question(predictor, prompts, find_earlier(prompts, earlier_objects, areas), multimask)
            for prompts in data["objects"]
        ]
        asked = {n: question for n, question in enumerate(questions) if question.is_open}
        answers = {n: question.restored(predictor, embedding) for n, question in enumerate(questions) if n not in asked}
        answers |= _decoded(predictor, embedding, asked, start)
        if areas and predictor.spec.takes_points:
            more = {n: question.off(areas, answers[n]) for n, question in enumerate(questions)}
            asked = {n: question for n, question in more.items() if question}
            answers |= _decoded(predictor, embedding, asked, start)
        return [answers[n] for n in range(len(questions))]

    def _question(
        self, predictor: Predictor, prompts: Prompts, earlier: EarlierObject | None, asked: bool | None
    ) -> _Question:
        multimask = self._multimask(prompts, asked)
        if earlier is None:
            return _Question(prompts, multimask)
        is_open = not is_unchanged(prompts, earlier) or len(earlier.scores) != (3 if multimask else 1)
        if "mask" in predictor.spec.prompts:
            prompts = continue_from(prompts, earlier)
            multimask = self._multimask(prompts, asked)
        return _Question(prompts, multimask, earlier, is_open)

    def _multimask(self, prompts: Prompts, asked: bool | None) -> bool:
        if asked is not None:
            return asked
        return prompts.is_lone_point and self._engine.specs[self.engine_model].point_candidates

    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms to the objects' masks and to one label map of them in its slice of the volume."""
        return [BestMasksd(), CleanMasksd(), CutMasksd(), MergeMasksd(), FrameToVolumed(), RestoreValuesd()]


@dataclass(frozen=True, eq=False)
class _Question:
    """An object to decode, unless the answer is known.

    Args:
        prompts: As they are decoded: with the mask of the earlier object, if it is one to refine.
        multimask: Whether for three candidates.
        earlier: The object that they extend.
        is_open: Whether the answer differs from the earlier object's.
    """

    prompts: Prompts
    multimask: bool
    earlier: EarlierObject | None = None
    is_open: bool = True

    def restored(self, predictor: Predictor, embedding: Embedding) -> Prediction:
        """Return the earlier object's answer."""
        assert self.earlier is not None
        return predictor.restore(embedding.image_size, self.earlier.scores, self.earlier.low_res_logits)

    def off(self, areas: Mapping[bytes | None, np.ndarray], answer: Prediction) -> _Question | None:
        """Return what to ask as the answer reaches into areas beside the object, by key; None if it does not.

        An answer that is the earlier one's knows the earlier areas.
        """
        known = frozenset() if self.is_open or self.earlier is None else self.earlier.beside
        mask = np.asarray(answer.packed[0], dtype=bool)
        found = [point_beside(mask, area) for key, area in areas.items() if key not in known]
        points = [point for point in found if point is not None]
        return replace(self, prompts=with_points(self.prompts, [], points)) if points else None


def _decoded(
    predictor: Predictor, embedding: Embedding, questions: Mapping[int, _Question], start: np.ndarray | None
) -> dict[int, Prediction]:
    """Return the answers to numbered questions, decoded together where possible; of a mask to start from, corrections.

    The logits are the answer's own.
    """
    answers: dict[int, Prediction] = {}
    for multimask, group in groupby(questions.items(), key=lambda item: item[1].multimask):
        numbers, together = zip(*group, strict=True)
        prompts = [question.prompts for question in together]
        answers.update(zip(numbers, predictor.decode(embedding, prompts, multimask=multimask), strict=True))
    if start is None:
        return answers
    return {n: _correcting(start, answer, questions[n].prompts) for n, answer in answers.items()}


def _correcting(start: np.ndarray, answer: Prediction, prompts: Prompts) -> Prediction:
    masks = (np.asarray(mask, dtype=bool) for mask in answer.packed)
    packed = tuple(PackedMask.of(corrected(start, mask, prompts.points, prompts.labels)) for mask in masks)
    return replace(answer, packed=packed)

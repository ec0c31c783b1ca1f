"""Task that segments one slice with SAM, from prompts of a viewer or of the REST API."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, ClassVar

from lib.infers.click_memory import ClickMemory
from lib.infers.facts import made_by, result_facts
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_task import SamTask
from lib.sam.automatic import segment_automatically
from lib.sam.embeddings.cache import Embedding
from lib.sam.predictor import Prediction, Predictor
from lib.sam.prompts import Prompts
from lib.sam.refinement import EarlierObject, continue_from, find_earlier, is_unchanged
from lib.transforms.load import LoadMedicalImaged, SentLabeld
from lib.transforms.masks import BestMasksd, CleanMasksd, FrameToVolumed, MergeMasksd
from lib.transforms.prompt_sources import PromptSourced, RestoreValuesd
from lib.transforms.request import REQUEST, SegmentRequest, Source
from lib.transforms.sam_input_prompts import SamInputPromptsd
from lib.transforms.viewer_options import CANDIDATES, WINDOWS
from lib.transforms.viewer_prompts import ViewerPromptsd
from lib.transforms.window import WindowFramed


class Sam2D(SamTask):
    """One SAM model as a MONAI Label task for one slice at a time.

    The request's source says in which format its prompts are, see :mod:`lib.transforms.sam_input_prompts` and
    :mod:`lib.transforms.viewer_prompts`, or where they come from instead, see :mod:`lib.transforms.prompt_sources`.
    Without the option ``multimask`` the model's spec decides whether a single point returns the best of three
    candidates; all other prompts return the single mask.

    Clicks of one client refine: prompts that extend its previous ones on the same picture for the same object start
    from their mask. Options that viewers show: ``window``, ``candidates``, ``box_from_points``, ``largest_component``,
    ``fill_holes``.

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
        self._memory: ClickMemory[EarlierObject] = ClickMemory()
        self._prefetcher = ahead

    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms that load the image, map the prompts, choose the slice and window it."""
        limits = self._limits
        request: SegmentRequest = data[REQUEST]
        load = LoadMedicalImaged(limits, self._images, request.image_sha256)
        prompts: Callable
        if request.source is Source.REST:
            prompts = SamInputPromptsd(limits)
        elif request.source is Source.VIEWER:
            prompts = ViewerPromptsd(limits)
        else:
            prompts = PromptSourced(load.load)
        return [load, SentLabeld(load.load), prompts, WindowFramed()]

    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Encode the slice (or take its embedding from the cache) and decode its objects, in batches if possible."""
        request: SegmentRequest = data[REQUEST]
        predictor = self._engine.predictor(self.engine_model)
        embedding = predictor.encode(data["frame"])
        if data["objects"] and request.source is Source.VIEWER:
            data["predictions"] = self._segment_click(predictor, embedding, request, data["objects"][0])
            if self._prefetcher:
                user, window = request.client or "", request.options.window
                self._prefetcher.clicked(self.engine_model, user, data["image"], data["slice"], window)
        elif data["objects"]:
            asked = request.options.multimask
            data["predictions"] = self._segment(predictor, embedding, data["objects"], data["earlier"], asked)
        elif request.automatic:
            data["predictions"] = segment_automatically(predictor, embedding)
        else:
            data["predictions"] = []
        data["made_by"] = made_by(predictor)
        return data

    def _segment_click(
        self, predictor: Predictor, embedding: Embedding, request: SegmentRequest, prompts: Prompts
    ) -> list[Prediction]:
        """Segment a viewer's object, starting from the client's last mask there if the prompts extend its prompts."""
        key = (request.client or "", embedding.key, request.object_name or "")
        last = self._memory.recall(key) if request.client else None
        earlier = [last] if last else []
        [prediction] = self._segment(predictor, embedding, [prompts], earlier, request.options.multimask)
        if request.client:
            self._memory.remember(key, EarlierObject(prompts, prediction.scores, prediction.low_res_logits))
        return [prediction]

    def _segment(
        self,
        predictor: Predictor,
        embedding: Embedding,
        objects: Sequence[Prompts],
        earlier_objects: Sequence[EarlierObject],
        asked: bool | None,
    ) -> list[Prediction]:
        """Return one prediction per object; one that extends an earlier object refines its mask, or reuses it."""
        predictions: dict[int, Prediction] = {}
        to_decode: list[tuple[bool, int, Prompts]] = []
        for index, prompts in enumerate(objects):
            multimask = self._multimask(prompts, asked)
            earlier = find_earlier(prompts, earlier_objects)
            if (
                earlier is not None
                and is_unchanged(prompts, earlier)
                and len(earlier.scores) == (3 if multimask else 1)
            ):
                predictions[index] = predictor.restore(embedding, earlier.scores, earlier.low_res_logits)
                continue
            if earlier is not None and "mask" in predictor.spec.prompts:
                prompts = continue_from(prompts, earlier)
                multimask = self._multimask(prompts, asked)
            to_decode.append((multimask, index, prompts))
        for multimask, group in groupby(to_decode, key=lambda item: item[0]):
            _, indices, together = zip(*group, strict=True)
            predictions.update(zip(indices, predictor.decode(embedding, together, multimask=multimask), strict=True))
        return [predictions[index] for index in range(len(predictions))]

    def _multimask(self, prompts: Prompts, asked: bool | None) -> bool:
        if asked is not None:
            return asked
        return prompts.is_lone_point and self._engine.specs[self.engine_model].point_candidates

    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms to the objects' masks and to one label map of them in its slice of the volume."""
        return [BestMasksd(), CleanMasksd(), MergeMasksd(), FrameToVolumed(), RestoreValuesd()]

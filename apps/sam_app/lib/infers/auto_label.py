"""Task that finds labels in an image without any prompt, as a site has taught them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from scipy import ndimage

from lib.base.clock import current_clock
from lib.imaging.image import MedicalImage
from lib.imaging.labels.slice_labels import SliceLabels
from lib.infers.facts import made_by
from lib.infers.sam_task import SamTask
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import Version
from lib.sam.predictor import Prediction, Predictor
from lib.sam.prompts import PromptError
from lib.transforms.load import LoadMedicalImage, LoadMedicalImaged, SentLabeld
from lib.transforms.masks import BestMasksd, FrameToVolumed, MergeMasksd, largest_component
from lib.transforms.present_labels import ProtectLabeld, slice_of
from lib.transforms.request import REQUEST, SegmentRequest, Source
from lib.transforms.sam_input_prompts import SamInputPromptsd
from lib.transforms.viewer_options import WINDOWS
from lib.transforms.window import WindowFramed, volume_pictures

ALL = "auto"
"""Name of the task that finds all labels that were learned."""


def auto_facts(data: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the facts about the result, for JSON.

    Returns:
        ``model``, ``checkpoint_sha256`` and ``version``, or ``versions`` if there are several, ``frames``,
        ``image_notes`` (what users should know about how it was read), ``window``, ``voxels``, and ``found``: for each
        slice and label on it ``k``, ``label``, ``score`` (predicted IoU) and ``area`` in pixels, as far as no surer
        label covers it.
    """
    labels: SliceLabels = data["pred"]
    found = []
    for k, on_slice in sorted(labels.slices.items()):
        areas = np.bincount(on_slice.ravel(), minlength=len(data["names"]) + 1)
        for number, label in enumerate(data["names"], start=1):
            if areas[number]:
                score = round(data["scores"][k, number], 4)
                found.append({"k": k, "label": label, "score": score, "area": int(areas[number])})
    return {
        "model": model,
        **data["made_by"],
        "frames": data["image"].frame_count,
        "image_notes": list(data["image"].notes),
        "window": asdict(data["window"]),
        "voxels": sum(one["area"] for one in found),
        "found": found,
    }


class AutoLabel(SamTask):
    """What was learned for one label, or for all, as a MONAI Label task: viewers list it for automatic segmentation.

    Each frame is segmented by itself; for a client of the REST routes only the one that it asks for. Where two labels
    would overlap is the one with the higher predicted IoU. In a volume only the largest piece is kept of a label that
    was in one piece in all accepted images. Options that viewers show: ``window``, ``largest_component`` (off: all
    pieces are kept).

    Args:
        name: ``auto_<label>``, or :data:`ALL`.
        versions: What is served now for each label; later ones of the same names are used as soon as they are served.
        others: As of :class:`SamTask`.
    """

    DIMENSION = 3
    TYPE = InferType.SEGMENTATION
    OPTIONS: ClassVar[dict[str, Any]] = {"window": WINDOWS, "largest_component": True}
    facts = staticmethod(auto_facts)

    def __init__(self, name: str, versions: Sequence[Version], *others: Any) -> None:
        super().__init__(str(versions[0].manifest["model"]), *others)
        self.engine_model = name
        self.labels = {str(one.manifest["label"]): number for number, one in enumerate(versions, start=1)}
        self.description = f"Finds {', '.join(self.labels)} without prompts, as learned here from accepted labels"
        self._learned = [one.name for one in versions]

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """See :class:`SamTask`; there are no prompts."""
        return dict(self.OPTIONS)

    def info(self) -> dict[str, Any]:
        """Return what ``/info/`` says of the task; it takes no prompts."""
        return {**super().info(), "prompts": []}

    def is_valid(self) -> bool:
        """Return whether versions of all its labels are served; clients see it only then."""
        return set(self._learned) <= set(self._engine.automatic())

    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms that load the image and, for the REST routes, choose the frame and window it."""
        request: SegmentRequest = data[REQUEST]
        load = LoadMedicalImaged(self._limits, self._images, request.image_key)
        protect = ProtectLabeld(LoadMedicalImage(self._limits))
        if request.source is Source.REST:
            prompts = SamInputPromptsd(self._limits, read=LoadMedicalImage(self._limits))
            return [load, SentLabeld(load.load), prompts, protect, WindowFramed()]
        return [load, SentLabeld(load.load), protect]

    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Find the labels on every frame, or on the chosen one; where one is not, there is no mask.

        Raises:
            PromptError: If there are prompts.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        predictors = [self._engine.predictor(name) for name in self._learned]
        data.update(made_by=_made_by(predictors), names=list(self.labels))
        data["in_one_piece"] = [_is_in_one_piece(predictor) for predictor in predictors]
        if request.source is Source.REST:
            if data["objects"]:
                what = "its label" if len(predictors) == 1 else "its labels"
                raise PromptError(f"{self.engine_model} finds {what} by itself: leave all prompts out")
            found = _find(predictors, data["frame"], data["protected"], data["slice"])
            data["predictions"] = found if any(one.packed[0].area for one in found) else []
            return data
        with current_clock().stage("window"):
            windowed, applied = volume_pictures(image, image.frame_count // 2, request.options.window)
        masks: dict[int, np.ndarray] = {}
        scores: dict[tuple[int, int], float] = {}
        for k in range(image.frame_count):
            current_clock().check()
            found = _find(predictors, windowed(k), data["protected"], k)
            if any(one.packed[0].area for one in found):
                masks[k] = np.zeros(image.frame_size, np.uint8)
                for number, prediction in sorted(enumerate(found, start=1), key=lambda one: float(one[1].scores[0])):
                    masks[k][np.asarray(prediction.packed[0])] = number
                    scores[k, number] = float(prediction.scores[0])
        data.update(slice_masks=masks, scores=scores, window=applied)
        return data

    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms to the volume of the masks."""
        request: SegmentRequest = data[REQUEST]
        if request.source is Source.REST:
            return [BestMasksd(), MergeMasksd(), FrameToVolumed()]
        return [_in_volume]


def _made_by(predictors: Sequence[Predictor]) -> dict[str, Any]:
    """Return the facts about the weights; for several labels ``versions``, in the order of the labels' numbers."""
    if len(predictors) == 1:
        return {**made_by(predictors[0])}
    return {
        "checkpoint_sha256": predictors[0].checkpoint_sha256,
        "versions": [predictor.title for predictor in predictors],
    }


def _is_in_one_piece(predictor: Predictor) -> bool:
    return predictor.version is not None and bool(predictor.version.manifest.get("in_one_piece"))


def _find(
    predictors: Sequence[Predictor], picture: np.ndarray, protected: np.ndarray | None, k: int
) -> list[Prediction]:
    """Return what each finds on slice k, encoded once for all that share an encoder, without what is protected."""
    found = [predictor.find(predictor.encode(picture)) for predictor in predictors]
    return found if protected is None else [one.without(slice_of(protected, k)) for one in found]


def _in_volume(data: dict[str, Any]) -> dict[str, Any]:
    """Add ``pred``; of labels that are in one piece only the largest in three dimensions, unless all are asked for."""
    image: MedicalImage = data["image"]
    request: SegmentRequest = data[REQUEST]
    labels = SliceLabels((image.frame_count, *image.frame_size), data["slice_masks"])
    if request.options.largest_component is not False and any(data["in_one_piece"]):
        numbers = np.asarray(labels)
        for number, place in enumerate(ndimage.find_objects(numbers), start=1):
            if place is not None and data["in_one_piece"][number - 1]:
                mask = numbers[place] == number
                numbers[place][mask & ~largest_component(mask)] = 0
        labels = SliceLabels.of(numbers)
    return {**data, "pred": labels}

"""Task that finds one label in an image without any prompt, as a site has taught it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.base.clock import current_clock
from lib.imaging.image import MedicalImage
from lib.imaging.labels.slice_labels import SliceLabels
from lib.infers.facts import made_by
from lib.infers.sam_task import SamTask
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import Version
from lib.sam.prompts import PromptError
from lib.transforms.load import LoadMedicalImaged, SentLabeld
from lib.transforms.masks import BestMasksd, FrameToVolumed, MergeMasksd, largest_component
from lib.transforms.request import REQUEST, SegmentRequest, Source
from lib.transforms.sam_input_prompts import SamInputPromptsd
from lib.transforms.viewer_options import WINDOWS
from lib.transforms.window import WindowFramed, volume_pictures


def auto_facts(data: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the facts about the result, for JSON.

    Returns:
        ``model``, ``checkpoint_sha256``, ``version``, ``frames``, ``image_notes`` (what users should know about how it
        was read), ``window``, ``voxels``, and ``found``: for each slice with the label ``k``, ``score`` (predicted IoU)
        and ``area`` in pixels.
    """
    labels: SliceLabels = data["pred"]
    areas = {k: int(np.count_nonzero(on_slice)) for k, on_slice in sorted(labels.slices.items())}
    found = [{"k": k, "score": round(data["slice_scores"][k], 4), "area": area} for k, area in areas.items()]
    return {
        "model": model,
        **data["made_by"],
        "frames": data["image"].frame_count,
        "image_notes": list(data["image"].notes),
        "window": asdict(data["window"]),
        "voxels": sum(areas.values()),
        "found": found,
    }


class AutoLabel(SamTask):
    """What was learned for one label as a MONAI Label task: OHIF and 3D Slicer list it for automatic segmentation.

    Each frame is segmented by itself; for a client of the REST routes only the one that it asks for. Options that
    viewers show: ``window``, ``largest_component``.

    Args:
        version: That is served now; a later one of the same name is used as soon as it is served.
        others: As of :class:`SamTask`.
    """

    DIMENSION = 3
    TYPE = InferType.SEGMENTATION
    OPTIONS: ClassVar[dict[str, Any]] = {"window": WINDOWS, "largest_component": False}
    facts = staticmethod(auto_facts)

    def __init__(self, version: Version, *others: Any) -> None:
        super().__init__(str(version.manifest["model"]), *others)
        label = str(version.manifest["label"])
        self.engine_model = version.name
        self.labels = {label: 1}
        self.description = f"Finds {label} without prompts, as learned here from accepted labels"

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """See :class:`SamTask`; there are no prompts."""
        return dict(self.OPTIONS)

    def info(self) -> dict[str, Any]:
        """Return what ``/info/`` says of the task; it takes no prompts."""
        return {**super().info(), "prompts": []}

    def is_valid(self) -> bool:
        """Return whether a version is served; clients see it only then."""
        return self.engine_model in self._engine.automatic()

    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms that load the image and, for the REST routes, choose the frame and window it."""
        request: SegmentRequest = data[REQUEST]
        load = LoadMedicalImaged(self._limits, self._images, request.image_sha256)
        if request.source is Source.REST:
            return [load, SentLabeld(load.load), SamInputPromptsd(self._limits), WindowFramed()]
        return [load, SentLabeld(load.load)]

    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Find the label on every frame, or on the chosen one; where it is not, there is no mask.

        Raises:
            PromptError: If there are prompts.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        predictor = self._engine.predictor(self.engine_model)
        data["made_by"] = made_by(predictor)
        if request.source is Source.REST:
            if data["objects"]:
                raise PromptError(f"{self.engine_model} finds its label by itself: leave points and rectangles out")
            found = predictor.find(predictor.encode(data["frame"]))
            data["predictions"] = [found] if found.packed[0].area else []
            return data
        with current_clock().stage("window"):
            windowed, applied = volume_pictures(image, image.frame_count // 2, request.options.window)
        masks: dict[int, np.ndarray] = {}
        scores: dict[int, float] = {}
        for k in range(image.frame_count):
            current_clock().check()
            prediction = predictor.find(predictor.encode(windowed(k)))
            if prediction.packed[0].area:
                masks[k] = np.asarray(prediction.packed[0]).astype(np.uint8)
                scores[k] = float(prediction.scores[0])
        data.update(slice_masks=masks, slice_scores=scores, window=applied)
        return data

    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms to the volume of the masks."""
        request: SegmentRequest = data[REQUEST]
        if request.source is Source.REST:
            return [BestMasksd(), MergeMasksd(), FrameToVolumed()]
        return [_in_volume]


def _in_volume(data: dict[str, Any]) -> dict[str, Any]:
    """Add ``pred``; with the option ``largest_component`` only the largest piece in three dimensions."""
    image: MedicalImage = data["image"]
    request: SegmentRequest = data[REQUEST]
    labels = SliceLabels((image.frame_count, *image.frame_size), data["slice_masks"])
    if request.options.largest_component and labels.slices:
        labels = SliceLabels.of(largest_component(np.asarray(labels, dtype=bool)).astype(np.uint8))
    return {**data, "pred": labels}

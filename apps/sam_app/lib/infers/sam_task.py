"""Base class of the inference tasks of SAM models."""

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.base.clock import current_clock
from lib.base.scratch import scratch_file
from lib.imaging.image import MedicalImage
from lib.imaging.image_cache import ImageCache
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.limits import Limits
from lib.infers.steps import Steps
from lib.sam.engine import Engine
from lib.sam.models.registry import ModelSpec
from lib.sam.prompts import PromptError
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import REQUEST, LabelFormat, SegmentRequest


class SamTask(InferTask):
    """One SAM model as a MONAI Label task.

    It is registered as DEEPGROW without its own labels, so that the point-prompt panels of OHIF and 3D Slicer list it
    with the app's labels, and Slicer does not run it automatically. For dimension 2 both viewers send the points of
    one slice, for 3 those of all slices.

    Args:
        model: The model's name in the engine.
        engine: Shared by all tasks.
        limits: Bounds on images and prompts.
        images: Cache of the images that were read; shared by all tasks.
    """

    DIMENSION: ClassVar[int]
    """2 if one call segments a slice, 3 if it segments a volume."""

    TYPE: ClassVar[InferType] = InferType.DEEPGROW
    """In which of the viewers' panels it is listed."""

    OPTIONS: ClassVar[dict[str, Any]]
    """Options that viewers show, by name, with their defaults."""

    def __init__(self, model: str, engine: Engine, limits: Limits, images: ImageCache | None = None) -> None:
        super().__init__(
            type=self.TYPE,
            labels=[],
            dimension=self.DIMENSION,
            description=engine.specs[model].description,
            config=self.options(engine.specs[model]),
        )
        self.engine_model = model
        self._spec = engine.specs[model]
        self._engine = engine
        self._limits = limits
        self._images = images or ImageCache()
        self._steps = Steps()

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the options that viewers show, with their defaults for a model."""
        return {**self.OPTIONS, "box_from_points": not spec.takes_points}

    def info(self) -> dict[str, Any]:
        """Return what ``/info/`` says of the task: MONAI Label's facts, the model's licence and kinds of prompts."""
        return {**super().info(), **self._spec.facts}

    def is_valid(self) -> bool:
        """Return whether the model can be used; clients see it only then."""
        return self._engine.state(self.engine_model) != "no checkpoint"

    def read(self, path: str) -> MedicalImage:
        """Return the image at a path, from memory if it was read before.

        Raises:
            ImageError: If it cannot be read.
        """
        return LoadMedicalImage(self._limits, self._images)(path)

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Run the transforms before the model, the model, the transforms after it, and the writer.

        Args:
            request: See :meth:`~lib.transforms.request.SegmentRequest.as_monai`.

        Returns:
            As :meth:`writer`, with ``latencies`` in seconds; if the request skips the writer, None and the final data.
        """
        times = [time.monotonic()]
        asked = self._steps.undone(request[REQUEST])
        data = {**request, REQUEST: asked}
        for transform in self.pre_transforms(data):
            data = transform(data)
        times.append(time.monotonic())
        data = self.run_inferer(data)
        self._steps.remember(asked)
        times.append(time.monotonic())
        for transform in self.post_transforms(data):
            data = transform(data)
        times.append(time.monotonic())
        if data.get("skip_writer"):
            return None, data
        path, facts = self.writer(data)
        times.append(time.monotonic())
        seconds = [round(end - start, 2) for start, end in (*pairwise(times), (times[0], times[-1]))]
        latencies = dict(zip(("pre", "infer", "post", "write", "total"), seconds, strict=True))
        return path, {**facts, "label_names": self.labels, "latencies": latencies, "centroids": {}}

    @abstractmethod
    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms before the model."""

    @abstractmethod
    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add what the model finds to the data."""

    @abstractmethod
    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms after the model, to ``pred``."""

    @staticmethod
    @abstractmethod
    def facts(data: dict[str, Any], model: str) -> dict[str, Any]:
        """Return the facts about a finished task's result, for JSON."""

    def writer(self, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Write the volume of labels in the requested format, also if the mask is empty.

        Args:
            data: With ``pred``, ``image`` and ``request``.

        Returns:
            The path, a scratch file of the request, and the facts about the result, for JSON.

        Raises:
            PromptError: For a file type that cannot hold the labels.
            NotOneVolumeError: If no single volume can hold the labels at their positions.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        asked = request.label_format or LabelFormat()
        suffix = asked.extension or (".nii.gz" if image.is_geometric else ".png")
        if suffix == ".png" and image.frame_count > 1:
            raise PromptError("result_extension .png is for 2D images; use .nrrd or .nii.gz for a volume")
        affine = image.affine if asked.by_index else image.affine_for(data["pred"].slices)
        path = scratch_file(suffix)
        with current_clock().stage("write"):
            write_label_volume(data["pred"], affine, path, dtype=asked.dtype)
        return path, self.facts(data, self.engine_model)

"""Task that segments an object through a volume with SAM, from prompts on one or more slices."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import lib.sam.volume.sam2_video  # noqa: F401 - registers how SAM 2 does it
from lib.base.clock import current_clock
from lib.imaging.image import MedicalImage, NotOneVolumeError
from lib.imaging.image_cache import cached_per_image
from lib.infers.click_memory import ClickMemory
from lib.infers.facts import made_by, volume_facts
from lib.infers.sam_task import SamTask
from lib.sam.logits_grid import LogitsGrid
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts, propagate
from lib.sam.volume.result import VolumeResult
from lib.transforms.load import LoadMedicalImage, LoadMedicalImaged, SentLabeld
from lib.transforms.masks import ResultToVolumed
from lib.transforms.present_labels import ProtectLabeld, slice_of
from lib.transforms.prompt_sources import LabelVolumePromptsd, RestoreValuesd
from lib.transforms.request import REQUEST, SegmentRequest, Source
from lib.transforms.viewer_options import WINDOWS
from lib.transforms.viewer_prompts import VolumePromptsd
from lib.transforms.window import AppliedWindow, volume_pictures

_MEMORY_BOUNDS = {"per_client": 2, "clients": 8}
"""Bounds on the stored results; each takes at most some 160 KiB per slice, with a SAM 2 of 1024×1024 660 KiB."""


class Sam3D(SamTask):
    """One SAM model as a MONAI Label task for an object in a volume; see :mod:`lib.sam.volume.propagation`.

    SAM 2 follows the object by its own memory instead, see :mod:`lib.sam.volume.sam2_video`.

    Its prompts come from viewers, :mod:`lib.transforms.viewer_prompts`, or from the image's label,
    :mod:`lib.transforms.prompt_sources`. A client's next prompts on the same volume for the same object reuse the parts
    of the last result that they do not change. Options that viewers show: ``window``, ``max_slices``,
    ``box_from_points``.
    """

    DIMENSION = 3
    facts = staticmethod(volume_facts)
    OPTIONS: ClassVar[dict[str, Any]] = {"window": WINDOWS, "max_slices": 0, "box_from_points": False}

    def __init__(self, *others: Any) -> None:
        super().__init__(*others)
        self.description += "; through the whole volume"
        self._memory: ClickMemory[VolumeResult] = ClickMemory(**_MEMORY_BOUNDS)

    def pre_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms that load the image and map the prompts."""
        limits, request = self._limits, data[REQUEST]
        load = LoadMedicalImaged(limits, self._images)
        prompts: Callable = VolumePromptsd(limits, self._spec.prompts, load.load, grid=self._grid)
        if request.source is not Source.VIEWER:
            prompts = LabelVolumePromptsd(load.load, limits)
        return [load, SentLabeld(load.load), prompts, ProtectLabeld(LoadMedicalImage(limits))]

    def run_inferer(self, data: dict[str, Any]) -> dict[str, Any]:
        """Follow the object through the volume; only slices that are reached are windowed.

        Raises:
            NotOneVolumeError: If the frames do not form one volume.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        if image.volume_fault:
            raise NotOneVolumeError(image.volume_fault)
        prompts: VolumePrompts = data["volume_prompts"]
        predictor = self._engine.predictor(self.engine_model)
        clock = current_clock()
        with clock.stage("window"):
            windowed, applied = volume_pictures(image, _first_slice(prompts), request.options.window)

        def picture(k: int) -> np.ndarray:
            with clock.stage("window"):
                return windowed(k)

        key = None
        if request.client:
            key = (request.client, _picture_key(image, applied), request.object_name or "")
        options = PropagationOptions(max_slices=request.options.max_slices or None)
        last = next(iter(self._memory.recall(key)), None) if key else None
        until = time.monotonic() + (request.options.seconds or math.inf)
        result = propagate(predictor, picture, prompts, options, earlier=last, until=until)
        beside: Mapping[int, list[np.ndarray]] = data["beside"]
        if beside and predictor.spec.takes_points:
            prompts = prompts.off(result.found, beside)
            result = propagate(predictor, picture, prompts, options, earlier=result, until=until)
        if key:
            self._memory.remember(key, result)
        cut = {k: np.logical_or.reduce(areas) for k, areas in beside.items()}
        if data["protected"] is not None:
            cut = {k: slice_of(data["protected"], k) | cut.get(k, False) for k in result.found.keys() | cut.keys()}
        shown = result.without(cut)
        data.update(volume_result=shown, window=applied, made_by=made_by(predictor))
        return data

    def _grid(self, size: tuple[int, int]) -> LogitsGrid:
        return self._engine.predictor(self.engine_model).logits_grid(size)

    def post_transforms(self, data: dict[str, Any]) -> Sequence[Callable]:
        """Return the transforms to the volume of the masks."""
        return [ResultToVolumed(), RestoreValuesd()]


def _first_slice(prompts: VolumePrompts) -> int:
    """Return the first slice with a prompt, in whose window the volume is shown."""
    return min([*prompts.marked] or [*prompts.background] or [*prompts.start])


def _picture_key(image: MedicalImage, window: AppliedWindow) -> str:
    """Return a key of the volume's content as the model sees it."""
    shown = f"{image.frames.shape}|{image.frames.dtype}|{image.inverted}|{window}|"
    return shown + _content_sha256(image)


@cached_per_image
def _content_sha256(image: MedicalImage) -> str:
    content = hashlib.sha256(repr(image.displays).encode())
    content.update(np.ascontiguousarray(image.frames).data)
    return content.hexdigest()

"""SAM on one slice: prompts of a viewer or of the REST API in, a mask out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from lib.imaging.label_writers import LABEL_DTYPES, LABEL_SUFFIXES, write_label_volume
from lib.infers.click_memory import ClickMemory
from lib.sam.automatic import segment_automatically
from lib.sam.clock import current_clock
from lib.sam.embeddings import Embedding
from lib.sam.engine import Engine
from lib.sam.predictor import Prediction, Predictor
from lib.sam.prompts import PromptError, Prompts
from lib.sam.refinement import EarlierObject, find_earlier, go_on, is_unchanged
from lib.transforms.limits import Limits
from lib.transforms.load import LoadMedicalImaged
from lib.transforms.masks import CleanLabelsd, FrameToVolumed, MergeObjectsd
from lib.transforms.sam_input_prompts import SamInputPromptsd
from lib.transforms.viewer_options import BEST_OF_THREE, SINGLE, ViewerOptionsd
from lib.transforms.viewer_prompts import ViewerPromptsd
from lib.transforms.window import AUTO, PRESETS, WindowFramed


class Sam2D(BasicInferTask):
    """One SAM model as a MONAI Label task for one slice at a time.

    It is registered as DEEPGROW without labels of its own, so that the point-prompt panels of OHIF and 3D Slicer
    list it with the app's labels, and Slicer does not run it unasked.

    A request with ``sam_input`` speaks the REST vocabulary, every other one the viewers'; see
    :mod:`lib.transforms.sam_input_prompts` and :mod:`lib.transforms.viewer_prompts`. Without ``multimask`` the
    model's spec says whether a lone point is answered with the best of three candidates; everything else is with the
    single mask. ``automatic`` False answers a request without prompts with no object at all.

    Clicks of one client (``client``, which the server sets) refine: prompts that extend its last ones on the same
    picture for the same object (``object_name``) start from the mask that these gave. What viewers show as options:
    ``window``, ``candidates``, ``box_from_points``, ``largest_component``, ``fill_holes``.

    Args:
        model: The model's name in the engine.
        engine: Shared by all tasks.
        limits: Bounds on images and prompts.
    """

    def __init__(self, model: str, engine: Engine, limits: Limits) -> None:
        super().__init__(
            path=None,
            network=None,
            type=InferType.DEEPGROW,
            labels=[],
            dimension=2,
            description=engine.specs[model].description,
            config={
                "window": [AUTO, *PRESETS],
                "candidates": [AUTO, SINGLE, BEST_OF_THREE],
                "box_from_points": False,
                "largest_component": False,
                "fill_holes": False,
            },
        )
        self._config.pop("device")  # the engine has one, and a client's choice would not change it
        self._model = model
        self._engine = engine
        self._limits = limits
        self._memory = ClickMemory()

    @property
    def engine_model(self) -> str:
        """The name in the engine of the model that it runs."""
        return self._model

    def is_valid(self) -> bool:
        """Whether the model can be used: clients are shown it only then."""
        return self._engine.state(self._model) != "no checkpoint"

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """Load the image, map the prompts, choose the slice, window it."""
        limits, is_rest = self._limits, "sam_input" in (data or {})
        prompts = (
            [SamInputPromptsd(limits.max_prompts)]
            if is_rest
            else [ViewerOptionsd(), ViewerPromptsd(limits.max_prompts)]
        )
        load = LoadMedicalImaged(keys="image", max_pixels=limits.max_pixels, max_frames=limits.max_frames)
        return [load, *prompts, WindowFramed()]

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "") -> dict[str, Any]:
        """Encode the slice (or take its embedding from the cache) and decode the objects, together where possible."""
        predictor = self._engine.predictor(self._model)
        embedding = predictor.encode(data["frame"])
        if data["objects"] and "sam_input" not in data:
            data["predictions"] = self._segment_click(predictor, embedding, data)
        elif data["objects"]:
            data["predictions"] = self._segment(predictor, embedding, data)
        elif data.get("automatic", True):
            data["predictions"] = segment_automatically(predictor, embedding)
        else:
            data["predictions"] = []
        data["checkpoint_sha256"] = predictor.checkpoint_sha256
        return data

    def _segment_click(self, predictor: Predictor, embedding: Embedding, data: dict[str, Any]) -> list[Prediction]:
        """A viewer's one object, from the mask that the client has there already if it does."""
        key = (data.get("client") or "", embedding.key, str(data.get("object_name") or ""))
        last = self._memory.recall(key) if data.get("client") else None
        [prediction] = self._segment(predictor, embedding, {**data, "earlier": [last] if last else []})
        if data.get("client"):
            prompts: Prompts = data["objects"][0]
            self._memory.remember(key, EarlierObject(prompts, prediction.scores, prediction.low_res_logits))
        return [prediction]

    def _segment(self, predictor: Predictor, embedding: Embedding, data: dict[str, Any]) -> list[Prediction]:
        """One prediction an object; those that extend an earlier one start from its mask or, unchanged, keep it."""
        predictions: dict[int, Prediction] = {}
        to_decode: list[tuple[bool, int, Prompts]] = []
        for index, prompts in enumerate(data["objects"]):
            multimask = self._multimask(prompts, data.get("multimask"))
            earlier = find_earlier(prompts, data.get("earlier") or [])
            if (
                earlier is not None
                and is_unchanged(prompts, earlier)
                and len(earlier.scores) == (3 if multimask else 1)
            ):
                predictions[index] = predictor.restore(embedding, earlier.scores, earlier.low_res_logits)
                continue
            if earlier is not None:
                prompts = go_on(prompts, earlier)
                multimask = self._multimask(prompts, data.get("multimask"))
            to_decode.append((multimask, index, prompts))
        for multimask, group in groupby(to_decode, key=lambda item: item[0]):
            _, indices, objects = zip(*group, strict=True)
            predictions.update(zip(indices, predictor.decode(embedding, objects, multimask=multimask), strict=True))
        return [predictions[index] for index in range(len(predictions))]

    def _multimask(self, prompts: Prompts, asked: bool | None) -> bool:
        if asked is not None:
            return asked
        is_lone_point = len(prompts.points) == 1 and prompts.box is None and prompts.mask_logits is None
        return is_lone_point and self._engine.specs[self._model].point_candidates

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """One label map from the objects' masks, in its place in the volume."""
        return [MergeObjectsd(), CleanLabelsd(), FrameToVolumed()]

    def writer(
        self, data: dict[str, Any], extension: str | None = None, dtype: str | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Write the volume of labels as the client asked; always a file, also when the mask is empty.

        Args:
            data: With ``pred``, ``image`` and, optionally, ``result_extension`` and ``result_dtype``.
            extension: Instead of that of ``data``.
            dtype: Instead of that of ``data``.

        Returns:
            The file's path, which the caller deletes, and what is known of the result, for JSON.

        Raises:
            PromptError: For a file type or a data type that cannot be written.
        """
        image = data["image"]
        suffix = extension or data.get("result_extension") or (".nii.gz" if image.is_geometric else ".png")
        if suffix not in LABEL_SUFFIXES:
            raise PromptError(f"result_extension can be {', '.join(LABEL_SUFFIXES)}, not {suffix!r}")
        if suffix == ".png" and image.frame_count > 1:
            raise PromptError("result_extension .png is for 2D images; use .nrrd or .nii.gz for a volume")
        label_dtype = _label_dtype(dtype or data.get("result_dtype"))
        handle, path = tempfile.mkstemp(suffix=suffix)
        os.close(handle)
        try:
            with current_clock().stage("write"):
                write_label_volume(data["pred"], image.affine, path, dtype=label_dtype)
        except BaseException:
            os.unlink(path)
            raise
        return path, result_facts(data, self._model)


def _label_dtype(name: Any) -> str:
    dtype = "uint8" if name is None else str(name)
    if dtype not in LABEL_DTYPES:
        raise PromptError(f"result_dtype can be {', '.join(LABEL_DTYPES)}, not {dtype!r}")
    return dtype


def result_facts(data: dict[str, Any], model: str) -> dict[str, Any]:
    """What is known of a finished task's result, for JSON.

    Returns:
        ``model``, ``checkpoint_sha256``, ``slice``, ``slice_source`` (``request`` or ``middle``), ``frames``,
        ``window``, ``scores`` (predicted IoU, one an object), ``areas`` (pixels, one an object), ``candidates`` (how
        many masks there are of each object, at most) and ``candidate_scores`` (of each object, best first).
    """
    labels = data["labels"]
    candidate_scores = [[round(float(score), 4) for score in prediction.scores] for prediction in data["predictions"]]
    counts = np.bincount(labels.reshape(-1), minlength=len(data["predictions"]) + 1)
    return {
        "model": model,
        "checkpoint_sha256": data["checkpoint_sha256"],
        "slice": data["slice"],
        "slice_source": data["slice_source"],
        "frames": data["image"].frame_count,
        "window": data["window"].as_dict(),
        "scores": [scores[0] for scores in candidate_scores],
        "areas": counts[1:].tolist(),
        "candidates": max(map(len, candidate_scores), default=1),
        "candidate_scores": candidate_scores,
    }

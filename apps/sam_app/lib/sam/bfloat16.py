"""Use of bfloat16 on a CPU that multiplies it natively: the default, if a model's masks stay the same.

The networks are those of float32; OpenVINO rounds what they multiply to bfloat16, with 8 bits instead of 24.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.sam.agreement import compare_masks, section_images
from lib.sam.models.registry import ModelSpec
from lib.sam.predictor import Predictor
from lib.sam.runtimes.openvino_ir import NetworkKey, find_networks, has_bfloat16, keep_networks, read_manifest
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import RuntimeUnavailableError

logger = logging.getLogger(__name__)

MIN_IOU = 0.99
"""Smallest mean IoU of masks in bfloat16 with those in float32 with which bfloat16 is used unasked."""
_IMAGES, _POINTS_PER_SIDE = 3, 3


def is_known_to_agree(spec: ModelSpec, checkpoint_sha256: str, model_folder: Path) -> bool:
    """Return whether :func:`in_bfloat16` found before, on this kind of CPU, that a model's masks agree."""
    folder = find_networks(model_folder, NetworkKey.of(spec, checkpoint_sha256, "bfloat16"))
    return folder is not None and has_bfloat16() and _mean_iou(folder) >= MIN_IOU


def _mean_iou(folder: Path) -> float:
    return float(read_manifest(folder)["mean_iou"])


def in_bfloat16(predictor: Predictor, model_folder: Path) -> Predictor:
    """Return a predictor in bfloat16 if the CPU has it and the masks agree with float32's; else the same predictor.

    The masks are compared once, see :data:`MIN_IOU`; the result is stored beside the converted networks.

    Args:
        predictor: On OpenVINO in float32.
        model_folder: The folder of the checkpoints and of the converted networks.
    """
    runtime = predictor.runtime
    if not isinstance(runtime, OpenVinoRuntime) or not has_bfloat16():
        return predictor

    def faster() -> Predictor:
        return predictor.with_runtime(OpenVinoRuntime(runtime.folder, "bfloat16"))

    def compared(_: Path) -> dict[str, Any]:
        logger.info("Comparing masks of %s in bfloat16 with float32: once for this checkpoint ...", predictor.spec.name)
        agreement = compare_masks(faster(), predictor, section_images(_IMAGES), points_per_side=_POINTS_PER_SIDE)
        return asdict(agreement)

    key = NetworkKey.of(predictor.spec, predictor.checkpoint_sha256, "bfloat16")
    try:
        mean_iou = _mean_iou(keep_networks(model_folder, key, compared))
    except RuntimeUnavailableError as error:
        logger.warning(
            "%s runs in float32: its masks in bfloat16 could not be compared: %s", predictor.spec.name, error
        )
        return predictor
    if mean_iou >= MIN_IOU:
        return faster()
    logger.warning(
        "%s runs in float32: in bfloat16 the masks' mean IoU with float32's is %.4f, below %g",
        predictor.spec.name, mean_iou, MIN_IOU,
    )  # fmt: skip
    return predictor

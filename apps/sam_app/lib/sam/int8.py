"""Make the int8 form of an image encoder from the user's images; it is stored only if its masks are right on others.

Weights and activations of the linear layers and convolutions become 8-bit integers (NNCF's post-training quantization,
https://github.com/openvinotoolkit/nncf); the products of attention stay float32, as OpenVINO fuses them into one kernel
only then. The loss of accuracy depends on the images, and the time saved on the CPU: much with VNNI or AMX, nothing
without. Therefore both are measured before it is stored.
"""

import logging
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.utils.amg import build_point_grid

from lib.sam.embeddings.cache import Embedding
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_ir import DECODER, ENCODER, NetworkKey, keep_networks, openvino
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import RuntimeUnavailableError

_POINTS_PER_SIDE = 6
_BOX_SHARE = 0.25
"""Side of a box used for the comparison, as a share of the image's."""


@dataclass(frozen=True)
class Int8Check:
    """Comparison of an int8 encoder with the float32 one, on images that it was not calibrated on.

    Args:
        masks: Number of masks compared, from points on a grid and from boxes around them.
        mean_iou: Mean IoU of an int8 mask with the float32 one.
        worst_iou: 5th percentile of the IoU.
        embedding_difference: Mean relative L2 distance of the embeddings.
        seconds, float32_seconds: Median time of an encode, each image encoded by both in turn.
    """

    masks: int
    mean_iou: float
    worst_iou: float
    embedding_difference: float
    seconds: float
    float32_seconds: float


class Int8RefusedError(RuntimeUnavailableError):
    """The int8 encoder's masks differ too much, see ``check``; nothing was stored."""

    def __init__(self, check: Int8Check, min_iou: float) -> None:
        super().__init__(
            f"int8 is refused: the masks' mean IoU with float32's is {check.mean_iou:.4f}, not {min_iou:g}"
        )
        self.check = check


def make_int8(
    predictor: Predictor,
    float32: Path,
    model_folder: Path,
    key: NetworkKey,
    calibration: Sequence[np.ndarray],
    checking: Sequence[np.ndarray],
    *,
    min_iou: float,
) -> Int8Check:
    """Make a model's int8 networks, compare them with its float32 ones, and store them if they are good enough.

    Args:
        predictor: The model on OpenVINO in float32.
        float32: The folder of its float32 networks.
        model_folder: The folder of the checkpoints.
        key: Key of the int8 networks.
        calibration: ``(H, W, 3)`` uint8 images after windowing, of the kind that will be segmented.
        checking: Other images, for the comparison.
        min_iou: Smallest mean IoU of the masks with which the networks are stored.

    Returns:
        The comparison.

    Raises:
        Int8RefusedError: If the masks differ too much.
        RuntimeUnavailableError: If the networks cannot be made or stored.
    """
    checks: list[Int8Check] = []

    def make(folder: Path) -> dict[str, Any]:
        _quantize(predictor, float32 / ENCODER, folder / ENCODER, calibration)
        for suffix in (".xml", ".bin"):
            name = Path(DECODER).with_suffix(suffix).name
            shutil.copyfile(float32 / name, folder / name)
        check = compare(predictor, OpenVinoRuntime(folder, "int8"), checking)
        if not check.mean_iou >= min_iou:
            raise Int8RefusedError(check, min_iou)
        checks.append(check)
        return {"checkpoint_sha256": key.checkpoint_sha256, "check": asdict(check)}

    keep_networks(model_folder, key, make)
    if not checks:
        raise RuntimeUnavailableError(f"there is an int8 form of {key.model} already; remove it to make it anew")
    return checks[0]


def _quantize(predictor: Predictor, source: Path, target: Path, images: Sequence[np.ndarray]) -> None:
    openvino()  # before NNCF, which would otherwise load the telemetry
    import nncf

    nncf.set_log_level(logging.ERROR)
    inputs = [predictor.model_input(image).numpy() for image in images]
    is_transformer = predictor.spec.architecture != "tiny"
    try:
        quantized = nncf.quantize(
            openvino().Core().read_model(source),
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
            ignored_scope=nncf.IgnoredScope(patterns=[".*bmm.*"], validate=False),
        )
        openvino().save_model(quantized, target, compress_to_fp16=False)
    except (RuntimeError, ValueError) as error:
        raise RuntimeUnavailableError("NNCF cannot quantize this encoder") from error


def compare(predictor: Predictor, int8: OpenVinoRuntime, images: Sequence[np.ndarray]) -> Int8Check:
    """Compare an int8 runtime with the predictor's: encode each image by both and decode the same prompts."""
    overlaps: list[float] = []
    differences: list[float] = []
    times: list[tuple[float, float]] = []
    for image in images:
        height, width = image.shape[:2]
        inputs = predictor.model_input(image)
        (ours, seconds), (theirs, float32_seconds) = _timed(int8, inputs), _timed(predictor.runtime, inputs)
        times.append((seconds, float32_seconds))
        differences.append(float((ours - theirs).norm() / theirs.norm()))
        prompts = _prompts(width, height)
        predictions = [
            predictor.decode(Embedding(features, image_size=(height, width), key=""), prompts)
            for features in (ours, theirs)
        ]
        for one, other in zip(*predictions, strict=True):
            union = np.count_nonzero(one.masks[0] | other.masks[0])
            if union:
                overlaps.append(np.count_nonzero(one.masks[0] & other.masks[0]) / union)
    return Int8Check(
        masks=len(overlaps),
        mean_iou=float(np.mean(overlaps)) if overlaps else 0.0,
        worst_iou=float(np.percentile(overlaps, 5)) if overlaps else 0.0,
        embedding_difference=statistics.fmean(differences),
        seconds=statistics.median(pair[0] for pair in times),
        float32_seconds=statistics.median(pair[1] for pair in times),
    )


def _timed(runtime: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, float]:
    started = time.perf_counter()
    features = runtime.encode(inputs)[0]
    return features, time.perf_counter() - started


def _prompts(width: int, height: int) -> list[Prompts]:
    """Return prompts for a grid of points, and for a box around each."""
    points = build_point_grid(_POINTS_PER_SIDE) * [width, height]
    half = np.array([width, height]) * _BOX_SHARE / 2
    boxes = [np.concatenate([np.maximum(xy - half, 0), np.minimum(xy + half, [width, height])]) for xy in points]
    return [
        *(Prompts.from_clicks([xy.tolist()]) for xy in points),
        *(Prompts.from_clicks(box=box.tolist()) for box in boxes),
    ]

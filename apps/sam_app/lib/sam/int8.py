"""Make the int8 form of an image encoder from the user's images; it is stored only if its masks are right on others.

Weights and activations of the linear layers and convolutions become 8-bit integers (NNCF's post-training quantization,
https://github.com/openvinotoolkit/nncf); the products of attention stay float32, as OpenVINO fuses them into one kernel
only then. The loss of accuracy depends on the images, and the time saved on the CPU: much with VNNI or AMX, nothing
without. Therefore both are measured before it is stored.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lib.sam.agreement import MaskAgreement, compare_masks
from lib.sam.predictor import Predictor
from lib.sam.runtimes.openvino_ir import ENCODER, MANIFEST, NetworkKey, keep_networks, openvino
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import RuntimeUnavailableError

_POINTS_PER_SIDE = 6


class Int8RefusedError(RuntimeUnavailableError):
    """The int8 encoder's masks differ too much, see ``check``; nothing was stored."""

    def __init__(self, check: MaskAgreement, min_iou: float) -> None:
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
) -> MaskAgreement:
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
    checks: list[MaskAgreement] = []

    def make(folder: Path) -> dict[str, Any]:
        others = shutil.ignore_patterns("encoder.*", MANIFEST)
        shutil.copytree(float32, folder, ignore=others, dirs_exist_ok=True)
        _quantize(predictor, float32 / ENCODER, folder / ENCODER, calibration)
        int8 = predictor.with_runtime(OpenVinoRuntime(folder, "int8"))
        check = compare_masks(int8, predictor, checking, points_per_side=_POINTS_PER_SIDE)
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
    runtime = predictor.runtime
    assert isinstance(runtime, OpenVinoRuntime)
    inputs = [runtime.prepared(predictor.model_input(image)).copy() for image in images]
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

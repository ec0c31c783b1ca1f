"""Choice of the runtime for a model."""

import logging
from pathlib import Path
from typing import get_args

import torch

from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.openvino_ir import NetworkKey, convert, convert_decoder, find_networks, has_bfloat16
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import Networks, Precision, Runtime, RuntimeUnavailableError
from lib.sam.runtimes.torch_runtime import TorchRuntime

logger = logging.getLogger(__name__)

PRECISIONS: tuple[str, ...] = get_args(Precision)


def torch_precision(device: torch.device) -> Precision:
    """Return PyTorch's precision unless the operator chooses: float32 on a CPU, the fastest one on a GPU."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def with_decoder(
    runtime: Runtime, spec: ModelSpec, networks: Networks, title: str, sha256: str, model_folder: Path
) -> Runtime:
    """Return a model's runtime with a learned mask decoder; the encoder is the same one.

    Args:
        runtime: The model's.
        spec: The model.
        networks: Its networks, with the learned decoder.
        title: The version's.
        sha256: SHA-256 of the version's weights.
        model_folder: The folder of the checkpoints and of the converted networks.

    Raises:
        RuntimeUnavailableError: If it cannot be converted.
    """
    if isinstance(runtime, TorchRuntime):
        return runtime.with_decoder(networks)
    if not isinstance(runtime, OpenVinoRuntime):
        raise RuntimeUnavailableError(f"{runtime.name} takes no learned decoder")
    key = NetworkKey(title, sha256, "float32", spec.encoding)
    return runtime.with_decoder(convert_decoder(model_folder, key, networks))


def on_cpu(
    spec: ModelSpec, networks: Networks, checkpoint_sha256: str, model_folder: Path, precision: Precision | None
) -> OpenVinoRuntime | None:
    """Return the OpenVINO runtime for a model on a CPU; None if PyTorch must be used (a failure is logged).

    Args:
        spec: The model.
        networks: Its networks on the CPU, in evaluation mode, with their weights.
        checkpoint_sha256: SHA-256 of the weights' file.
        model_folder: The folder of the checkpoints and of the converted networks.
        precision: ``int8``, once ``scripts/quantize`` has made the networks; ``bfloat16``, where the CPU has it; None
            for float32, which :func:`lib.sam.bfloat16.in_bfloat16` may then replace.

    Raises:
        RuntimeUnavailableError: For int8 without its networks, or bfloat16 on a CPU without it: another precision
            would not be the requested one.
    """
    if precision == "int8":
        folder = find_networks(model_folder, NetworkKey.of(spec, checkpoint_sha256, "int8"))
        if folder is None:
            raise RuntimeUnavailableError(
                f"there is no int8 form of {spec.name} here: make and check it with "
                f"`scripts/quantize {spec.name} --images FOLDER`, or start without --conf precision int8"
            )
        return OpenVinoRuntime(folder, "int8")
    if precision == "float16":
        return None
    if precision == "bfloat16" and not has_bfloat16():
        raise RuntimeUnavailableError(
            "this CPU has no bfloat16 (AVX512_BF16 or AMX): start without --conf precision bfloat16"
        )
    try:
        key = NetworkKey.of(spec, checkpoint_sha256)
        folder = convert(model_folder, key, networks)
        return OpenVinoRuntime(folder, precision or "float32")
    except RuntimeUnavailableError as error:
        logger.warning("%s runs on PyTorch, which is slower on a CPU: %s", spec.name, error)
        return None

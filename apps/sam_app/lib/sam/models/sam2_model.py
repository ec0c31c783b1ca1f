"""SAM 2's module, built from the configuration in the ``sam2`` package, offline and without Hydra's global state.

Sources: Ravi et al. 2024, arXiv:2408.00714; facebookresearch/sam2, ``sam2/build_sam.py`` and
``sam2/configs/sam2.1/*.yaml``. Upstream composes them by Hydra, which importing ``sam2`` initialises for the whole
process; here only OmegaConf reads the file, and Hydra's state is restored.
"""

from importlib import resources
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

_AS_UPSTREAM = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
"""Settings that ``build_sam2_video_predictor`` adds to the file: an unstable single mask is replaced by the best of
three, and the memory of a marked slice is made from the mask that the user saw. Upstream also fills small holes if its
CUDA extension was compiled; here users can choose the option ``fill_holes``."""

_STRIDE = 16
"""Pixels of the input for each place of an embedding."""

_MAX_MARKED_SLICES = 8
"""A step attends only to this many marked slices, the nearest, so that its cost is bounded; upstream has no bound."""


def build_sam2(architecture: str, input_size: int | None = None) -> nn.Module:
    """Build the module without its weights.

    Args:
        architecture: Name of a configuration of SAM 2.1 in the ``sam2`` package, e.g. ``sam2.1_hiera_t``.
        input_size: Side of the square input, a multiple of 32; None: the configuration's, 1024.

    Returns:
        A ``sam2.modeling.sam2_base.SAM2Base``, on the CPU or, within ``torch.device("meta")``, without data.
    """
    file = resources.files(_sam2_package()) / "configs" / "sam2.1" / f"{architecture}.yaml"
    config = OmegaConf.create(file.read_text(encoding="utf-8"))
    extra = {**_AS_UPSTREAM, "max_cond_frames_in_attn": _MAX_MARKED_SLICES}
    model = OmegaConf.merge(config.model, extra)
    if input_size is not None:
        model.image_size = input_size
        side = input_size // _STRIDE
        for attention in (model.memory_attention.layer.self_attention, model.memory_attention.layer.cross_attention):
            attention.feat_sizes = [side, side]
    for position_encoding in (model.image_encoder.neck.position_encoding, model.memory_encoder.position_encoding):
        position_encoding.warmup_cache = False  # it would fill a GPU with tables of unused sizes
    with _BuildableWithoutData():
        module: nn.Module = instantiate(model, _recursive_=True)
    return module


def _sam2_package() -> Any:
    """Return the ``sam2`` package; importing it initialises Hydra for the process, which is reverted."""
    was_initialised = GlobalHydra.instance().is_initialized()
    import sam2

    if not was_initialised:
        GlobalHydra.instance().clear()
    return sam2


class _BuildableWithoutData(TorchFunctionMode):
    """Mode in which constructors that read a tensor's values or move it to a GPU work on ``torch.device("meta")``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace:  # Hiera reads its stochastic depths from this tensor
            kwargs = {**kwargs, "device": "cpu"}
        elif func is torch.Tensor.to and args[0].is_meta:  # RoPEAttention moves its table to the GPU if there is one
            return args[0]
        return func(*args, **kwargs)

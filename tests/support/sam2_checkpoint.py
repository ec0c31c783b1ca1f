"""A checkpoint of SAM 2.1 tiny as Meta's files are made, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lib.sam.models.registry import MODELS, ModelSpec

SPEC = MODELS["sam2_hiera_tiny"]
CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
_AT_512 = [
    "++model.image_size=512",
    "++model.memory_attention.layer.self_attention.feat_sizes=[32,32]",
    "++model.memory_attention.layer.cross_attention.feat_sizes=[32,32]",
]
"""What MedSAM2's own configuration, ``sam2.1_hiera_t512.yaml``, changes in SAM 2.1's."""


def overrides(spec: ModelSpec) -> list[str]:
    """Return how a spec's configuration differs from ``CONFIG``."""
    return _AT_512 if spec.input_size == 512 else []


def write_sam2_checkpoint(folder: Path, spec: ModelSpec = SPEC, seed: int = 7) -> Path:
    """Write a spec's checkpoint, ``sam2.1_hiera_tiny.pt``, into a folder: ``{"model": tensors by name}``, 156 MB.

    Random weights would say at random whether the object is there at all; these always say that it is, and no mask of
    theirs is empty. An object's pointer would hardly be heard among the thousands of places of a slice that is
    remembered; here it is loud.
    """
    torch.manual_seed(seed)
    tensors = spec.build().state_dict()
    tensors["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 3.0
    for token in range(4):
        tensors[f"sam_mask_decoder.output_hypernetworks_mlps.{token}.layers.2.bias"] += 0.03
    tensors["obj_ptr_proj.layers.2.weight"] *= 300.0
    path = folder / spec.checkpoint
    torch.save({"model": tensors}, path)
    return path


@contextmanager
def upstream_configuration() -> Iterator[None]:
    """Within it, ``sam2`` finds its configurations, whatever was imported and configured before."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        yield

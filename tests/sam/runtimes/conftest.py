"""Networks of SAM's architecture with random weights, for the tests of what runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from lib.sam.models.checksums import ChecksumFile, ChecksumRecord, Digests, FileStamp
from lib.sam.models.registry import MODELS


def small_vit() -> ImageEncoderViT:
    """SAM's ViT with windowed and global attention, small, at 256 x 256."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=256,
        patch_size=16,
        embed_dim=64,
        depth=3,
        num_heads=4,
        out_chans=32,
        use_rel_pos=True,
        window_size=6,
        global_attn_indexes=(2,),
    )
    for name, values in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero when new
            torch.nn.init.normal_(values, std=0.5)
    return encoder.eval().requires_grad_(False)


@pytest.fixture
def vit() -> ImageEncoderViT:
    return small_vit()


@pytest.fixture(scope="session")
def vit_b_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with ``sam_vit_b`` of random weights, entered as verified: no such file has Meta's checksum."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    module: Any = MODELS["sam_vit_b"].build()
    for name, values in module.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(values, std=0.1)
    path = folder / MODELS["sam_vit_b"].checkpoint
    torch.save(module.state_dict(), path)
    record = ChecksumRecord(Digests.of(path), verified=FileStamp.of(path))
    ChecksumFile(folder / "checksums.json").put(path.name, record)
    return folder

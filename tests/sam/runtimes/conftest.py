"""Networks of SAM's architecture with random weights, for the tests of what runs them."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT


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

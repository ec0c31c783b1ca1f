"""SAM's own parts: its image encoder, a plain ViT, for other input sizes, too; and its decoder around any encoder.

Source: Kirillov et al. 2023, arXiv:2304.02643; ``segment_anything/build_sam.py``, which has the input's size, 1024,
built in. Only the tables of positions depend on it.
"""

from typing import Any

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

_CHANNELS = 256
_EMBEDDING_SIDE = 64
_PATCH = 16


def build_sam_vit(architecture: str, input_size: int | None = None) -> Sam:
    """Build a SAM without its weights.

    Args:
        architecture: ``vit_b``, ``vit_l`` or ``vit_h``.
        input_size: Side of the square input, a multiple of 16; None: 1024.
    """
    sam: Any = sam_model_registry[architecture]()
    if input_size is None:
        return sam
    encoder, side = sam.image_encoder, input_size // _PATCH
    encoder.img_size = input_size
    encoder.pos_embed = nn.Parameter(torch.zeros(1, side, side, encoder.pos_embed.shape[-1]))
    for block in encoder.blocks:
        if block.window_size == 0:
            channels = block.attn.rel_pos_h.shape[-1]
            block.attn.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels))
            block.attn.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels))
    return sam_around(encoder, input_size, side)


def sam_around(encoder: nn.Module, input_size: int, embedding_side: int = _EMBEDDING_SIDE) -> Sam:
    """Build a SAM with this image encoder and SAM's own prompt encoder and mask decoder.

    Args:
        encoder: ``(B, 3, S, S)`` to ``(B, 256, s, s)``.
        input_size: S', the side of the square in whose pixels prompts are given: S for most.
        embedding_side: s.
    """
    size = (embedding_side, embedding_side)
    transformer = TwoWayTransformer(depth=2, embedding_dim=_CHANNELS, mlp_dim=2048, num_heads=8)
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=_CHANNELS,
            image_embedding_size=size,
            input_image_size=(input_size, input_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=transformer,
            transformer_dim=_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    ).eval()

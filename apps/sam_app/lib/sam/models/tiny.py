"""The bundled model ``sam_tiny``: SAM's three parts at a hundredth of its cost.

The model keeps the pattern and the interfaces of the Segment Anything Model (Kirillov et al., 2023,
arXiv:2304.02643): an image encoder that runs once per image, a prompt encoder, and a mask decoder that is cheap
enough to run for each click. Its layers differ: the encoder is convolutional, and prompts reach the decoder twice, as
tokens (as in SAM) and drawn into the dense embedding, from which so small a network learns to follow them.

Coordinate frame: images are (B, 3, S, S) tensors with S = ``img_size``, the longest side of the original scaled to
S, row 0 at the top, padded with zeros at the bottom and the right *after* normalisation. Prompts are XY pixels of
that scaled image. Embeddings are (B, C, 64, 64) and low-resolution masks (B, n, 256, 256) logits, both over the
whole padded square.

All modules are deterministic and keep no state in ``forward``: one model in evaluation mode may be used by several
threads at once. These files need only PyTorch.
"""

import json
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.tiny_decoder import MaskDecoder
from lib.sam.models.tiny_encoder import ImageEncoder
from lib.sam.models.tiny_layers import TinyConfig
from lib.sam.models.tiny_prompts import PromptEncoder

__all__ = ["MaskDecoder", "PromptEncoder", "SamTiny", "TinyConfig", "config_metadata"]


class SamTiny(nn.Module):
    """The three parts together, with the attributes of ``segment_anything.modeling.Sam``.

    Attributes:
        image_encoder: `ImageEncoder`.
        prompt_encoder: `PromptEncoder`.
        mask_decoder: `MaskDecoder`.
        img_size: Side S of the input square.
        pixel_mean: (3, 1, 1), subtracted from intensities in 0..255.
        pixel_std: (3, 1, 1), divides them afterwards.
    """

    mask_threshold = 0.0
    image_format = "RGB"

    def __init__(self, config: TinyConfig | None = None) -> None:
        super().__init__()
        self.config = config or TinyConfig()
        self.img_size = self.config.img_size
        self.image_encoder = ImageEncoder(self.config)
        self.prompt_encoder = PromptEncoder(self.config)
        self.mask_decoder = MaskDecoder(self.config)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 96.0), persistent=False)
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 64.0), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) or (3, H, W) in 0..255, longest side S, and pad them to S x S."""
        x = (x - self.pixel_mean) / self.pixel_std
        return F.pad(x, (0, self.img_size - x.shape[-1], 0, self.img_size - x.shape[-2]))


def config_metadata(config: TinyConfig) -> dict[str, str]:
    """Return the metadata of a checkpoint of this configuration."""
    return {"format": "pt", "architecture": "sam_tiny", "config": json.dumps(asdict(config), sort_keys=True)}

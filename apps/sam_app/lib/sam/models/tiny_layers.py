"""Sizes and layers that several parts of ``sam_tiny`` share."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_SIZE = 64
MASK_SIZE = 256
STEM_SIZE = 128
"""Cells per side of the encoder's finest features."""

NUM_MASKS = 4
"""Number of masks made internally, as in SAM: mask 0 for clear prompts, 1 to 3 as candidates for ambiguous ones."""


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the network; written to and compared with the checkpoint's metadata.

    Attributes:
        img_size: Side S of the input square in pixels, a multiple of 256.
        widths: Channels of the encoder at 128, 64, 32, 16 and 8 cells per side.
        semantic: Channels of the embedding that come from the feature pyramid.
        fine: Channels at 128 cells per side that are folded, 2x2 to one cell, into the embedding.
        token_dim: Width of the decoder's tokens.
        decoder_widths: Channels of the decoder at 64, 32 and 16 cells per side.
        upscaled: Channels of the decoder at 128 cells per side, from which the masks are made.
    """

    img_size: int = 512
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 192, 256)
    semantic: int = 96
    fine: int = 12
    token_dim: int = 128
    decoder_widths: tuple[int, int, int] = (64, 96, 128)
    upscaled: int = 32

    @property
    def embed_dim(self) -> int:
        """Channels C of the image embedding: the pyramid's, the fine ones, 16 of the image itself."""
        return self.semantic + 4 * self.fine + 16


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and, with ``act``, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, nn.SiLU(inplace=True)) if act else super().__init__(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; the shape (B, C, H, W) stays the same."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.body = nn.Sequential(ConvNorm(channels, hidden), ConvNorm(hidden, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.silu(x + self.body(x))


def double(x: Tensor) -> Tensor:
    """Return x with height and width doubled, bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def repeat(x: Tensor, times: int) -> Tensor:
    """Return x with each entry of the batch repeated; a batch of one is returned unchanged, for broadcasting."""
    return x if x.shape[0] == 1 else x.repeat_interleave(times, 0)

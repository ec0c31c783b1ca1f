"""SAM with a TinyViT as image encoder: LiteMedSAM and MobileSAM.

TinyViT (Wu et al. 2022, arXiv:2207.10666) has a stage of convolutions and three of attention within windows. In a SAM
(MobileSAM, Zhang et al. 2023, arXiv:2306.14289) its third and fourth stages have the same resolution, so that an
embedding of 64 x 64 results, as from SAM's own encoders. MobileSAM's input is 1024 x 1024 and is reduced by four at the
entry; LiteMedSAM's (Ma et al. 2024, the baseline of "Segment anything in medical images on laptop") is 256 x 256 and
enters at full resolution. Prompt encoder and mask decoder are SAM's own.

Modules and parameters are named as in the publishers' checkpoints. Features are channels last, (B, H, W, C), within
the stages of attention, and (B, C, H, W) elsewhere.
"""

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.sam_vit import sam_around

_WIDTHS = (64, 128, 160, 320)
_DEPTHS = (2, 2, 6, 2)
_HEADS = (2, 4, 5, 10)
_WINDOWS = (7, 7, 14, 7)
_EXPANSION = 4
_EMBEDDING_CHANNELS = 256


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch normalisation; the padding keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))


class PatchEmbed(nn.Module):
    """Entry: two convolutions, (B, 3, S, S) to (B, C, s, s) with s = S / stride²."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        size = 1 if stride == 1 else 3
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2, size, stride), nn.GELU(), ConvNorm(channels // 2, channels, size, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images."""
        entered: Tensor = self.seq(x)
        return entered


class MBConv(nn.Module):
    """Inverted residual block of the first stage, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * _EXPANSION
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Way from one stage to the next, (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next stage's features."""
        merged: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return merged


class WindowAttention(nn.Module):
    """Attention among the places of a window, (B, n, C), with a learned bias for each distance in rows and columns."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = row.flatten(), column.flatten()
        distances = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("distances", distances, persistent=False)
        self.distances: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the places after attention."""
        batch, places, channels = x.shape
        parts = self.qkv(self.norm(x)).view(batch, places, self.heads, 3, channels // self.heads)
        query, key, value = parts.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.distances]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        attended: Tensor = self.proj(found.transpose(1, 2).reshape(batch, places, channels))
        return attended


class Mlp(nn.Module):
    """Two linear layers with normalisation before them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * _EXPANSION)
        self.fc2 = nn.Linear(channels * _EXPANSION, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        mapped: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return mapped


class AttentionBlock(nn.Module):
    """Attention within windows, a depthwise convolution, an MLP; (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.mlp = Mlp(channels)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        x = x + self._attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x).permute(0, 2, 3, 1)
        mixed: Tensor = (x + self.mlp(x)).permute(0, 3, 1, 2)
        return mixed

    def _attention(self, x: Tensor) -> Tensor:
        """Return (B, H, W, C) after attention; the last windows of a row and of a column are padded with zeros."""
        batch, height, width, channels = x.shape
        side = self.window
        below, beside = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, beside, 0, below))
        rows, columns = (height + below) // side, (width + beside) // side
        windows = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        attended = self.attn(windows.reshape(-1, side * side, channels))
        back = attended.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        whole: Tensor = back.reshape(batch, height + below, width + beside, channels)
        return whole[:, :height, :width]


class Stage(nn.Module):
    """Blocks of one resolution, and the way to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at the end of the stage, (B, C, H, W)."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVit(nn.Module):
    """The encoder, (B, 3, S, S) to (B, 256, 64, 64).

    Args:
        img_size: S, 256 or 1024.
        has_classifier: Whether there are the layers of TinyViT's classifier, unused here: MobileSAM's file has them.
    """

    def __init__(self, img_size: int, *, has_classifier: bool) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(_WIDTHS[0], stride={256: 1, 1024: 2}[img_size])
        self.layers = nn.ModuleList(_stage(index) for index in range(len(_WIDTHS)))
        if has_classifier:
            self.norm_head = nn.LayerNorm(_WIDTHS[-1])
            self.head = nn.Linear(_WIDTHS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], _EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(_EMBEDDING_CHANNELS),
            nn.Conv2d(_EMBEDDING_CHANNELS, _EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(_EMBEDDING_CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode preprocessed images."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        embedding: Tensor = self.neck(x)
        return embedding


def _stage(index: int) -> Stage:
    width, depth = _WIDTHS[index], _DEPTHS[index]
    blocks: list[nn.Module]
    if index == 0:
        blocks = [MBConv(width) for _ in range(depth)]
    else:
        blocks = [AttentionBlock(width, _HEADS[index], _WINDOWS[index]) for _ in range(depth)]
    if index == len(_WIDTHS) - 1:
        return Stage(blocks, None)
    is_last_way = index == len(_WIDTHS) - 2
    return Stage(blocks, PatchMerging(width, _WIDTHS[index + 1], stride=1 if is_last_way else 2))


def build_tiny_vit_sam(img_size: int, *, has_classifier: bool) -> Sam:
    """Build a SAM with this encoder, without weights; see :class:`TinyVit` for the arguments."""
    return sam_around(TinyVit(img_size, has_classifier=has_classifier), img_size)

"""SAM with EfficientViT as image encoder: EfficientViT-SAM-L0 and L1.

Source: Zhang et al. 2024, arXiv:2402.05008, and Cai et al. 2023, arXiv:2205.14756; mit-han-lab/efficientvit
(Apache-2.0), ``efficientvit/models/efficientvit/{backbone,sam}.py``. Four stages of convolutions are followed by one of
linear attention; the last three are brought to one resolution and added. The input is 512 x 512 and the embedding
64 x 64; prompts are in pixels of 1024 x 1024, as SAM's. Prompt encoder and mask decoder are SAM's own.

Modules and parameters are named as in the publisher's checkpoints. Features are (B, C, H, W).
"""

from collections.abc import Sequence

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.sam_vit import sam_around

INPUT_SIZE = 512

_PROMPT_SIZE = 1024
_WIDTHS = (32, 64, 128, 256, 512)
_DEPTHS = {"l0": (1, 1, 1, 4, 4), "l1": (1, 1, 1, 6, 6)}
_NECK_DEPTHS = {"l0": 4, "l1": 8}
_ENTRY_EXPANSIONS = (16, 16, 16, 24)
_EXPANSIONS = (4, 4, 4)
_ATTENTION_EXPANSION = 6
_HEAD_CHANNELS = 32
_NECK_CHANNELS = 256
_EMBEDDING_SIDE = 64
_EPS = 1e-6
_ATTENTION_EPS = 1e-15


class Conv(nn.Module):
    """Convolution that keeps the size at stride 1, then batch normalisation and GELU, each if asked for.

    Where there is no normalisation there is a bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        is_normed: bool = True,
        is_active: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=not is_normed)
        self.norm = nn.BatchNorm2d(outputs, eps=_EPS) if is_normed else None
        self.is_active = is_active

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after it."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.gelu(x, approximate="tanh") if self.is_active else x


class ResBlock(nn.Module):
    """Two convolutions of 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, channels, 3, is_active=True)
        self.conv2 = Conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        mapped: Tensor = self.conv2(self.conv1(x))
        return mapped


class FusedMBConv(nn.Module):
    """Convolution of 3 x 3 to more channels, then one of 1 x 1 to fewer."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        self.spatial_conv = Conv(inputs, inputs * expansion, 3, stride=stride, is_active=True)
        self.point_conv = Conv(inputs * expansion, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after it."""
        mapped: Tensor = self.point_conv(self.spatial_conv(x))
        return mapped


class MBConv(nn.Module):
    """Inverted residual block's convolutions, normalised once at the end."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.inverted_conv = Conv(inputs, hidden, is_normed=False, is_active=True)
        self.depth_conv = Conv(hidden, hidden, 3, stride=stride, groups=hidden, is_normed=False, is_active=True)
        self.point_conv = Conv(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after it."""
        mapped: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return mapped


class LinearAttention(nn.Module):
    """Attention whose cost grows with the number of places alone: ReLU in place of softmax, at two scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        three = 3 * channels
        self.qkv = nn.ModuleDict({"conv": nn.Conv2d(channels, three, 1, bias=False)})
        coarser = nn.Sequential(
            nn.Conv2d(three, three, 5, padding=2, groups=three, bias=False),
            nn.Conv2d(three, three, 1, groups=three // _HEAD_CHANNELS, bias=False),
        )
        self.aggreg = nn.ModuleList([coarser])
        self.proj = Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        batch, _, height, width = x.shape
        fine = self.qkv["conv"](x)
        both = torch.cat([fine, self.aggreg[0](fine)], dim=1)
        query, key, value = both.view(batch, -1, 3, _HEAD_CHANNELS, height * width).unbind(2)
        query, key = F.relu(query), F.relu(key)
        weights = value @ key.transpose(-1, -2)
        total = key.sum(dim=-1, keepdim=True).transpose(-1, -2) @ query
        attended = (weights @ query) / (total + _ATTENTION_EPS)
        projected: Tensor = self.proj(attended.reshape(batch, -1, height, width))
        return projected


class Residual(nn.Module):
    """A block, to whose result its input is added, if it has the same shape."""

    def __init__(self, main: nn.Module, *, is_added: bool = True) -> None:
        super().__init__()
        self.main = main
        self.is_added = is_added

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after it."""
        mapped: Tensor = self.main(x)
        return mapped + x if self.is_added else mapped


class AttentionBlock(nn.Module):
    """Attention over all places, then convolutions at each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.context_module = Residual(LinearAttention(channels))
        self.local_module = Residual(MBConv(channels, channels, _ATTENTION_EXPANSION))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        mixed: Tensor = self.local_module(self.context_module(x))
        return mixed


class Steps(nn.Module):
    """Modules one after the other, named as the publisher's."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after all of them."""
        for step in self.op_list:
            x = step(x)
        return x


class Backbone(nn.Module):
    """The stages; each halves the resolution."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        entry = [Conv(3, _WIDTHS[0], 3, stride=2, is_active=True)]
        self.stages = nn.ModuleList([Steps([*entry, *(Residual(ResBlock(_WIDTHS[0])) for _ in range(depths[0]))])])
        for index in range(1, len(_WIDTHS)):
            self.stages.append(_stage(index, depths[index]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features after each stage."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _stage(index: int, depth: int) -> Steps:
    inputs, width, entry_expansion = _WIDTHS[index - 1], _WIDTHS[index], _ENTRY_EXPANSIONS[index - 1]
    is_last = index == len(_WIDTHS) - 1
    kind = FusedMBConv if index < 3 else MBConv
    blocks: list[nn.Module] = [Residual(kind(inputs, width, entry_expansion, stride=2), is_added=False)]
    for _ in range(depth):
        blocks.append(AttentionBlock(width) if is_last else Residual(kind(width, width, _EXPANSIONS[index - 1])))
    return Steps(blocks)


class Neck(nn.Module):
    """The last three stages' features at one resolution, added and mixed: to (B, 256, 64, 64)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.input_ops = nn.ModuleList(Steps([Conv(width, _NECK_CHANNELS)]) for width in (512, 256, 128))
        self.middle = Steps([Residual(FusedMBConv(_NECK_CHANNELS, _NECK_CHANNELS, 1)) for _ in range(depth)])
        self.output_ops = nn.ModuleList([Steps([Conv(_NECK_CHANNELS, 256, is_normed=False)])])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the embedding before its normalisation, from the features of all stages."""
        size = (_EMBEDDING_SIDE, _EMBEDDING_SIDE)
        coarse, middle, fine = (op(level) for op, level in zip(self.input_ops, reversed(features[2:]), strict=True))
        coarse, middle = (F.interpolate(level, size, mode="bicubic") for level in (coarse, middle))
        mixed: Tensor = self.output_ops[0](self.middle(coarse + middle + fine))
        return mixed


class ChannelNorm(nn.Module):
    """Normalisation over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, _EPS).movedim(-1, 1)


class EfficientVit(nn.Module):
    """The encoder, (B, 3, 512, 512) to (B, 256, 64, 64).

    Args:
        size: ``l0`` or ``l1``.
    """

    def __init__(self, size: str) -> None:
        super().__init__()
        self.img_size = INPUT_SIZE
        self.backbone = Backbone(_DEPTHS[size])
        self.neck = Neck(_NECK_DEPTHS[size])
        self.norm = ChannelNorm(_NECK_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Encode preprocessed images."""
        embedding: Tensor = self.norm(self.neck(self.backbone(x)))
        return embedding


def build_efficientvit_sam(size: str) -> Sam:
    """Build a SAM with this encoder, without weights; see :class:`EfficientVit` for the argument."""
    sam = sam_around(EfficientVit(size), _PROMPT_SIZE)
    for module in sam.mask_decoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = _EPS  # as the publisher sets it
    return sam

"""The bundled model ``sam_tiny``: SAM's three parts at a hundredth of its cost.

The model keeps the pattern and the interfaces of the Segment Anything Model (Kirillov et al., 2023,
arXiv:2304.02643): an image encoder that runs once per image, a prompt encoder, and a mask decoder that is cheap
enough to answer each click. Its layers are its own: the encoder is convolutional, and prompts reach the decoder
twice, as tokens (as in SAM) and drawn into the dense embedding, which lets so small a network learn to obey them.

Coordinate frame: images are (B, 3, S, S) tensors with S = ``img_size``, the longest side of the original scaled to
S, row 0 at the top, padded with zeros at the bottom and the right *after* normalisation. Prompts are XY pixels of
that scaled image. Embeddings are (B, C, 64, 64) and low-resolution masks (B, n, 256, 256) logits, both over the
whole padded square.

All modules are deterministic and keep no state in ``forward``: one model in evaluation mode may be used by several
threads at once. The file needs PyTorch and NumPy alone; safetensors is imported where a checkpoint is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING_SIZE = 64
MASK_SIZE = 256
STEM_SIZE = 128
"""Cells per side of the encoder's finest features."""

NUM_MASKS = 4
"""Masks made internally, as in SAM: mask 0 for clear prompts, 1 to 3 as candidates for ambiguous ones."""


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
    """Convolution, batch normalisation and, unless told otherwise, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, nn.SiLU(inplace=True)) if act else super().__init__(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; shape (B, C, H, W) is kept."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.body = nn.Sequential(ConvNorm(channels, hidden), ConvNorm(hidden, channels, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return F.silu(x + self.body(x))


class Context(nn.Module):
    """Global context: channels are scaled and shifted by a function of their mean over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(channels, channels // 2), nn.SiLU(), nn.Linear(channels // 2, 2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B, C, H, W)."""
        scale, shift = self.net(x.mean((2, 3))).chunk(2, dim=1)
        return x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def local_contrast(x: Tensor) -> Tensor:
    """Return the image with locally normalised copies of its brightness: (B, 3, S, S) to (B, 6, S, S).

    Medical images come with any window. Two local standard scores (neighbourhoods of about 1/11 and 1/3 of the
    side) and one over the whole image make faint borders visible to the network whatever the window was.
    """
    grey = x.mean(1, keepdim=True)
    step = x.shape[-1] // 32
    mean = F.avg_pool2d(grey, step)
    square = F.avg_pool2d(grey * grey, step)
    scores = []
    for kernel in (3, 11):
        local = F.avg_pool2d(mean, kernel, 1, kernel // 2, count_include_pad=False)
        spread = F.avg_pool2d(square, kernel, 1, kernel // 2, count_include_pad=False) - local * local
        moments = torch.cat([local, spread.clamp_min(0).sqrt()], 1)
        moments = F.interpolate(moments, size=x.shape[-2:], mode="bilinear", align_corners=False)
        scores.append(((grey - moments[:, :1]) / (moments[:, 1:] + 0.03)).clamp(-4, 4))
    centre = grey.mean((2, 3), keepdim=True)
    spread = (grey - centre).square().mean((2, 3), keepdim=True).sqrt()
    scores.append(((grey - centre) / (spread + 0.03)).clamp(-4, 4))
    return torch.cat([x, *scores], 1)


class ImageEncoder(nn.Module):
    """Convolutional feature pyramid from the image to its embedding.

    Attributes:
        img_size: Side S of the images it takes.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.img_size = config.img_size
        if config.img_size % MASK_SIZE:
            raise ValueError(f"img_size must be a multiple of {MASK_SIZE}, got {config.img_size}")
        self.patch = config.img_size // STEM_SIZE
        w2, w4, w8, w16, w32 = config.widths
        self.stem = nn.Sequential(ConvNorm(6 * self.patch**2, w2), Residual(w2))
        self.stage4 = nn.Sequential(ConvNorm(w2, w4, stride=2), Residual(w4), Residual(w4))
        self.stage8 = nn.Sequential(ConvNorm(w4, w8, stride=2), Residual(w8), Residual(w8))
        self.stage16 = nn.Sequential(
            ConvNorm(w8, w16, stride=2), Residual(w16, w16 // 2), Residual(w16, w16 // 2), Context(w16)
        )
        self.stage32 = nn.Sequential(
            ConvNorm(w16, w32, stride=2), Residual(w32, w32 // 2), Context(w32), Residual(w32, w32 // 2)
        )
        self.lateral16 = ConvNorm(w16 + w32, w16, 1)
        self.merge16 = Residual(w16, w16 // 2)
        self.lateral8 = ConvNorm(w8 + w16, w8, 1)
        self.merge8 = Residual(w8)
        self.lateral4 = ConvNorm(w4 + w8, config.semantic, 1)
        self.merge4 = Residual(config.semantic)
        self.semantic = nn.Conv2d(config.semantic, config.semantic, 1)
        self.fine = ConvNorm(w2, config.fine, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: float (B, 3, S, S), normalised and padded; see the module's coordinate frame.

        Returns:
            float (B, C, 64, 64). The last channels are finer features, folded: `fine` channels of 2x2 positions
            and one (the locally normalised brightness at 256 x 256) of 4x4 positions per cell.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2:] != (self.img_size, self.img_size):
            raise ValueError(f"expected images of shape (B, 3, {self.img_size}, {self.img_size}), got {tuple(x.shape)}")
        rich = local_contrast(x)
        detail = F.avg_pool2d(rich[:, 3:4], self.img_size // MASK_SIZE)
        s2 = self.stem(F.pixel_unshuffle(rich, self.patch))
        s4 = self.stage4(s2)
        s8 = self.stage8(s4)
        s16 = self.stage16(s8)
        s32 = self.stage32(s16)
        p16 = self.merge16(self.lateral16(torch.cat([s16, double(s32)], 1)))
        p8 = self.merge8(self.lateral8(torch.cat([s8, double(p16)], 1)))
        p4 = self.merge4(self.lateral4(torch.cat([s4, double(p8)], 1)))
        fine = F.pixel_unshuffle(self.fine(s2), 2)
        return torch.cat([self.semantic(p4), fine, F.pixel_unshuffle(detail, 4).to(p4.dtype)], 1)


def double(x: Tensor) -> Tensor:
    """Return x with height and width doubled, bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class PromptEncoder(nn.Module):
    """Encode points, boxes and earlier masks into tokens and a dense embedding.

    Attributes:
        mask_input_size: (256, 256), the size of mask prompts.
    """

    CHANNELS = 10

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.img_size = config.img_size
        self.embed_dim = config.embed_dim
        self.mask_input_size = (MASK_SIZE, MASK_SIZE)
        half = config.embed_dim // 2
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", torch.randn(2, half, generator=generator) * 1.5)
        self.frequencies: Tensor
        self.kinds = nn.Embedding(4, config.embed_dim)
        """Type embeddings: background point, foreground point, top-left and bottom-right box corner."""
        self.dense = nn.Sequential(
            nn.Conv2d(self.CHANNELS, 64, 4, stride=4),
            nn.BatchNorm2d(64),
            nn.SiLU(),
            ConvNorm(64, 64),
            nn.Conv2d(64, config.embed_dim, 1),
        )

    def _encode_position(self, unit: Tensor) -> Tensor:
        """Return Fourier features (..., C) of positions (..., 2) in 0..1 of the padded square."""
        phase = 2 * math.pi * ((2 * unit - 1) @ self.frequencies)
        return torch.cat([phase.sin(), phase.cos()], -1)

    def get_dense_pe(self) -> Tensor:
        """Return the positional encoding of the embedding's cells, (1, C, 64, 64)."""
        axis = (
            torch.arange(EMBEDDING_SIZE, device=self.frequencies.device, dtype=self.frequencies.dtype) + 0.5
        ) / EMBEDDING_SIZE
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return self._encode_position(torch.stack([x, y], -1)).permute(2, 0, 1)[None]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of B objects.

        Args:
            points: Coordinates (B, N, 2), XY pixels of the scaled image, and labels (B, N): 1 foreground,
                0 background, -1 padding. A whole number is the centre of a pixel.
            boxes: (B, 4), XYXY of the box's edges in pixels of the scaled image: the tight box of pixels 3 to 5 runs
                from 3 to 6. A row of NaN means that this object has no box.
            masks: (B, 1, 256, 256), logits of an earlier answer. A map of zeros says nothing.

        Returns:
            Tokens (B, n, C), n = N for the points + 2 for the box (as in SAM, 0 without either), where padding
            is a token of zeros, which the decoder ignores; and the dense embedding (B, C, 64, 64).

        Raises:
            ValueError: No prompt at all, or shapes that do not fit.
        """
        batch = self._batch_size(points, boxes, masks)
        device = self.frequencies.device
        tokens = torch.empty(batch, 0, self.embed_dim, device=device)
        raster = torch.zeros(batch, self.CHANNELS, MASK_SIZE, MASK_SIZE, device=device)
        axis = (torch.arange(MASK_SIZE, device=device, dtype=torch.float32) + 0.5) / MASK_SIZE
        if points is not None:
            coords, labels = points[0].float() + 0.5, points[1].long()
            unit = coords / self.img_size
            tokens = (self.kinds(labels.clamp_min(0)) + self._encode_position(unit)) * (labels >= 0)[..., None]
            raster[:, 0:4] = draw_points(unit, labels, axis)
        if boxes is not None:
            given = boxes.float().isfinite().all(1)
            corners = torch.nan_to_num(boxes.float()).reshape(batch, 2, 2) / self.img_size
            ends = (self.kinds.weight[2:] + self._encode_position(corners)) * given[:, None, None]
            tokens = torch.cat([tokens, ends], 1)
            raster[:, 4:9] = draw_boxes(corners, axis) * given[:, None, None, None]
        if masks is not None:
            raster[:, 9:10] = torch.tanh(masks.float() / 4)
        return tokens, self.dense(raster.to(memory_format=torch.channels_last))

    def _batch_size(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> int:
        """Check the shapes of the prompts and return their common batch size."""
        sizes = set()
        if points is not None:
            coords, labels = points
            if coords.ndim != 3 or coords.shape[2] != 2 or labels.shape != coords.shape[:2]:
                raise ValueError(
                    f"points must be (B, N, 2) and (B, N), got {tuple(coords.shape)} and {tuple(labels.shape)}"
                )
            sizes.add(coords.shape[0])
        if boxes is not None:
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                raise ValueError(f"boxes must be (B, 4), got {tuple(boxes.shape)}")
            sizes.add(boxes.shape[0])
        if masks is not None:
            if masks.ndim != 4 or masks.shape[1:] != (1, MASK_SIZE, MASK_SIZE):
                raise ValueError(f"masks must be (B, 1, {MASK_SIZE}, {MASK_SIZE}), got {tuple(masks.shape)}")
            sizes.add(masks.shape[0])
        if not sizes:
            raise ValueError("at least one of points, boxes and masks is needed")
        if len(sizes) > 1:
            raise ValueError(f"points, boxes and masks differ in batch size: {sorted(sizes)}")
        return sizes.pop()


def draw_points(unit: Tensor, labels: Tensor, axis: Tensor) -> Tensor:
    """Draw clicks as Gaussian blobs.

    Args:
        unit: (B, N, 2), XY in 0..1 of the padded square.
        labels: (B, N), 1, 0 or -1 (not drawn).
        axis: (M,), pixel centres in 0..1.

    Returns:
        (B, 4, M, M): narrow and wide blobs of the foreground clicks, then of the background clicks.
    """
    square_x = (axis - unit[..., 0:1]).square()
    square_y = (axis - unit[..., 1:2]).square()
    maps = []
    for label in (1, 0):
        weight = (labels == label).to(unit.dtype)[..., None]
        for sigma in (0.012, 0.06):
            column = torch.exp(-square_y / (2 * sigma * sigma)) * weight
            row = torch.exp(-square_x / (2 * sigma * sigma))
            maps.append(torch.einsum("bny,bnx->byx", column, row).clamp_max(1))
    return torch.stack(maps, 1)


def draw_boxes(corners: Tensor, axis: Tensor) -> Tensor:
    """Draw boxes: interior, position within the box, inscribed ellipse and size.

    Args:
        corners: (B, 2, 2), top-left and bottom-right XY in 0..1 of the padded square.
        axis: (M,), pixel centres in 0..1.

    Returns:
        (B, 5, M, M): covered part of each pixel; x and y relative to the box (-1 and 1 at its sides, clamped to
        -2..2); inscribed ellipse (1 at the centre, 0 on it, clamped to -1); log of the size inside the box.
    """
    pixels = axis.shape[0]
    low, high = corners[:, 0, :, None], corners[:, 1, :, None]
    cover = (((axis - low) * pixels + 0.5).clamp(0, 1) * ((high - axis) * pixels + 0.5).clamp(0, 1)).float()
    half = ((high - low) / 2).clamp_min(0.5 / pixels)
    relative = ((axis - (low + high) / 2) / half).clamp(-2, 2)
    inside = cover[:, 1, :, None] * cover[:, 0, None, :]
    x = relative[:, 0, None, :].expand_as(inside)
    y = relative[:, 1, :, None].expand_as(inside)
    ellipse = (1 - x * x - y * y).clamp_min(-1)
    size = (half[:, 0] * half[:, 1]).log()[..., None] * inside / 8
    return torch.stack([inside, x, y, ellipse, size], 1)


class Attention(nn.Module):
    """Multi-head attention with a residual connection and layer normalisation of the queries (B, n, D).

    `used` is a bool mask, broadcast to (B, heads, queries, keys), of the keys that may be looked at.
    """

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, used: Tensor | None = None) -> Tensor:
        """Return tokens (B, n, D) after a look at keys and values (B, m, D)."""
        query = self._heads(self.query(self.norm(tokens)))
        key, value = self._heads(self.key(keys)), self._heads(self.value(values))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=used)
        return tokens + self.out(found.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """Return (B, n, D) as (B, heads, n, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TokenBlock(nn.Module):
    """Tokens look at each other, then at the image's coarsest features, then pass a small MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.among = Attention(dim)
        self.image = Attention(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, used: Tensor) -> Tensor:
        """Return the tokens (B, n, D); keys and values are (B, m, D), `used` tells tokens from padding."""
        tokens = self.among(tokens, tokens, tokens, used)
        tokens = self.image(tokens, keys, values)
        return tokens + self.mlp(tokens)


class QualityHead(nn.Module):
    """Rates masks from what lies in them: estimates the IoU of each mask with the object that was meant.

    SAM's head sees a token alone, which knows the prompt better than the answer. This one looks at the mask too: at
    the features inside it and along its border, at how sure its pixels are, at how far the masks agree, and at its
    size. No gradient flows from it into the rest of the network, so that it judges the masks and does not bend them.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        seen = 2 * channels + 2 * dim
        self.norm = nn.LayerNorm(seen)
        self.net = nn.Sequential(
            nn.Linear(seen + NUM_MASKS + 3, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1)
        )

    def forward(self, masks: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Rate the masks of B objects.

        Args:
            masks: Logits (B, n, 256, 256).
            features: (B, D, 64, 64), the decoder's.
            tokens: (B, 1 + n, T): one of the whole answer, and those that made the masks.

        Returns:
            (B, n), 0 to 1.
        """
        probability = masks.detach().float().sigmoid()
        chosen = (masks.detach() > 0).to(probability.dtype)
        unsure = probability * (1 - probability)
        cell = MASK_SIZE // EMBEDDING_SIZE
        inside = F.avg_pool2d(probability, cell).flatten(2)
        border = F.avg_pool2d(unsure, cell).flatten(2)
        area, length = inside.sum(-1, keepdim=True), border.sum(-1, keepdim=True)
        overlap = (probability * chosen).mean((2, 3))[..., None] * EMBEDDING_SIZE**2
        chosen_area = chosen.mean((2, 3))[..., None] * EMBEDDING_SIZE**2
        expected = overlap / (area + chosen_area - overlap + 1e-3)
        shared = torch.matmul(inside, inside.transpose(1, 2))
        own = inside.square().sum(-1, keepdim=True)
        agreement = shared / (own + own.transpose(1, 2) - shared + 1e-3)
        flat = features.detach().float().flatten(2).transpose(1, 2)
        tokens = tokens.detach().float()
        seen = [
            torch.matmul(inside, flat) / (area + 1e-3),
            torch.matmul(border, flat) / (length + 1e-3),
            tokens[:, :1].expand(-1, masks.shape[1], -1),
            tokens[:, 1:],
        ]
        stated = [
            4 * agreement - 2,
            4 * expected - 2,
            (area + 0.1).log() / 2 - 1,
            length / (area + 0.1).sqrt(),
        ]
        quality: Tensor = self.net(torch.cat([self.norm(torch.cat(seen, -1)), *stated], -1))[..., 0].sigmoid()
        return quality


class MaskDecoder(nn.Module):
    """A small U-Net over image and dense prompt embedding whose last layer is written by tokens."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        dim, (d64, d32, d16) = config.token_dim, config.decoder_widths
        self.semantic_channels = config.semantic
        self.image_proj = nn.Conv2d(config.embed_dim, d64, 1)
        self.dense_proj = nn.Conv2d(config.embed_dim, d64, 1, bias=False)
        self.enter = nn.Sequential(nn.BatchNorm2d(d64), nn.SiLU(inplace=True), ConvNorm(d64, d64))
        self.down32 = nn.Sequential(ConvNorm(d64, d32, stride=2), Residual(d32))
        self.down16 = nn.Sequential(ConvNorm(d32, d16, stride=2), Residual(d16), Context(d16), Residual(d16))
        self.token_proj = nn.Linear(config.embed_dim, dim)
        self.own_tokens = nn.Embedding(1 + NUM_MASKS, dim)
        self.key_proj = nn.Linear(d16, dim)
        self.position_proj = nn.Linear(config.embed_dim, dim)
        self.blocks = nn.ModuleList([TokenBlock(dim), TokenBlock(dim)])
        self.film = nn.Linear(dim, 2 * d16)
        self.up32 = ConvNorm(d16 + d32, d32, 1)
        self.mix32 = ConvNorm(d32, d32)
        self.up64 = ConvNorm(d32 + d64, d64, 1)
        self.mix64 = Residual(d64)
        self.up128 = nn.Conv2d(d64, 4 * config.upscaled, 1)
        self.fine_proj = nn.Conv2d(config.fine + 4, config.upscaled, 3, padding=1)
        self.mix128 = nn.Sequential(
            nn.BatchNorm2d(config.upscaled), nn.SiLU(inplace=True), ConvNorm(config.upscaled, config.upscaled)
        )
        self.hyper = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 4 * (config.upscaled + 1)))
            for _ in range(NUM_MASKS)
        )
        self.iou_head = QualityHead(d64, dim)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of B objects.

        Args:
            image_embeddings: (I, C, 64, 64) of I images with B / I consecutive objects each; I is 1 or B as a rule.
            image_pe: (1, C, 64, 64) from `PromptEncoder.get_dense_pe`.
            sparse_prompt_embeddings: (B, n, C).
            dense_prompt_embeddings: (B, C, 64, 64).
            multimask_output: Return masks 1 to 3 rather than mask 0.

        Returns:
            Logits (B, 3 or 1, 256, 256), above 0 inside the object, and predicted IoU (B, 3 or 1).
        """
        masks, quality = self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], quality[:, chosen]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return all masks (B, 4, 256, 256) and IoU predictions (B, 4); arguments as for `forward`."""
        image, sparse, dense = image_embeddings, sparse_prompt_embeddings, dense_prompt_embeddings
        batch = dense.shape[0]
        if batch % image.shape[0]:
            raise ValueError(f"{batch} prompts cannot be shared evenly by {image.shape[0]} image embeddings")
        repeats = batch // image.shape[0]
        x64 = self.enter(repeat(self.image_proj(image), repeats) + self.dense_proj(dense))
        x32 = self.down32(x64)
        x16 = self.down16(x32)

        positions = F.avg_pool2d(image_pe, EMBEDDING_SIZE // x16.shape[-1]).flatten(2).transpose(1, 2)
        values = self.key_proj(x16.flatten(2).transpose(1, 2))
        keys = values + self.position_proj(positions)
        own = self.own_tokens.weight[None].expand(batch, -1, -1).to(values.dtype)
        tokens = torch.cat([own, self.token_proj(sparse).to(values.dtype)], 1)
        used = torch.cat([torch.ones_like(own[..., 0], dtype=torch.bool), (sparse != 0).any(-1)], 1)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, keys, values, used)
        scale, shift = self.film(tokens[:, 0]).chunk(2, dim=1)
        x16 = x16 * (1 + scale[:, :, None, None]) + shift[:, :, None, None]

        x32 = self.mix32(self.up32(torch.cat([x32, double(x16)], 1)))
        x64 = self.mix64(self.up64(torch.cat([x64, double(x32)], 1)))
        fine = image[:, self.semantic_channels :]
        fine = torch.cat(
            [F.pixel_shuffle(fine[:, :-16], 2), F.pixel_unshuffle(F.pixel_shuffle(fine[:, -16:], 4), 2)], 1
        )
        x128 = self.mix128(F.pixel_shuffle(self.up128(x64), 2) + repeat(self.fine_proj(fine), repeats))

        # Each mask token writes a 1x1 convolution to four subpixels, which makes 256 x 256 out of 128 x 128.
        weights = torch.stack([net(tokens[:, 1 + i]) for i, net in enumerate(self.hyper)], 1)
        weights = weights.reshape(batch, NUM_MASKS * 4, -1)
        # Pixels come first, as they lie in memory: that spares training a change of layout.
        pixels = x128.permute(0, 2, 3, 1).flatten(1, 2)
        flat = (torch.bmm(pixels, weights[..., 1:].transpose(1, 2))).transpose(1, 2) + weights[..., :1]
        masks = F.pixel_shuffle(flat.reshape(batch, NUM_MASKS * 4, *x128.shape[-2:]), 2)
        return masks, self.iou_head(masks, x64, tokens[:, : 1 + NUM_MASKS])


def repeat(x: Tensor, times: int) -> Tensor:
    """Return x with each entry of the batch repeated; a batch of one is left to broadcasting."""
    return x if x.shape[0] == 1 else x.repeat_interleave(times, 0)


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
    """Return the metadata that a checkpoint of this configuration carries."""
    return {"format": "pt", "architecture": "sam_tiny", "config": json.dumps(asdict(config), sort_keys=True)}


def build_sam_tiny(checkpoint: str | Path | None = None) -> SamTiny:
    """Build the model in evaluation mode, with weights in float32.

    Args:
        checkpoint: safetensors file to load; None leaves random weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint of this architecture and configuration.
    """
    model = SamTiny()
    if checkpoint is not None:
        load_checkpoint(model, Path(checkpoint))
    return model.eval()


def load_checkpoint(model: SamTiny, path: Path) -> None:
    """Load a safetensors file strictly: every tensor must be there, with its shape, and no other."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    expected = config_metadata(model.config)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    for key in ("architecture", "config"):
        if metadata.get(key) != expected[key]:
            raise ValueError(f"{path} is not a sam_tiny checkpoint for this code: {key} is {metadata.get(key)!r}")
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit sam_tiny: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}, strict=True)

"""The prompt encoder of ``sam_tiny``: points, boxes and earlier masks, as tokens and drawn into the embedding."""

import math

import torch
from torch import Tensor, nn

from lib.sam.models.tiny_layers import EMBEDDING_SIZE, MASK_SIZE, ConvNorm, TinyConfig


class PromptEncoder(nn.Module):
    """Encode points, boxes and earlier masks into tokens and a dense embedding.

    Attributes:
        input_image_size: (S, S), the square in whose pixels prompts are given.
        mask_input_size: (256, 256), the size of mask prompts.
    """

    CHANNELS = 10

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.img_size = config.img_size
        self.embed_dim = config.embed_dim
        self.input_image_size = (config.img_size, config.img_size)
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
            masks: (B, 1, 256, 256), logits of an earlier mask. A map of zeros has no effect.

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
        expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
            ("boxes", boxes, (4,)),
            ("masks", masks, (1, MASK_SIZE, MASK_SIZE)),
        ]
        if points is not None:
            expected += [("points", points[0], (points[1].shape[-1], 2)), ("labels", points[1], points[0].shape[1:2])]
        sizes = set()
        for name, prompts, shape in expected:
            if prompts is not None:
                if prompts.shape[1:] != shape:
                    raise ValueError(f"{name} must be (B, {', '.join(map(str, shape))}), got {tuple(prompts.shape)}")
                sizes.add(prompts.shape[0])
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

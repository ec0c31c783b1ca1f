"""The mask decoder of ``sam_tiny``: masks and their scores, in milliseconds per click."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.tiny_encoder import Context
from lib.sam.models.tiny_layers import (
    EMBEDDING_SIZE,
    MASK_SIZE,
    NUM_MASKS,
    ConvNorm,
    Residual,
    TinyConfig,
    double,
    repeat,
)


class Attention(nn.Module):
    """Multi-head attention with a residual connection and layer normalisation of the queries (B, n, D).

    `used` is a bool mask, broadcast to (B, heads, queries, keys), of the keys that may be attended to.
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
        """Return tokens (B, n, D) after attention to keys and values (B, m, D)."""
        query = self._heads(self.query(self.norm(tokens)))
        key, value = self._heads(self.key(keys)), self._heads(self.value(values))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=used)
        return tokens + self.out(found.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """Return (B, n, D) as (B, heads, n, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TokenBlock(nn.Module):
    """Attention of tokens to each other, then to the image's coarsest features, followed by a small MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.among = Attention(dim)
        self.image = Attention(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, used: Tensor) -> Tensor:
        """Return the tokens (B, n, D); keys and values are (B, m, D), `used` is False for padding."""
        tokens = self.among(tokens, tokens, tokens, used)
        tokens = self.image(tokens, keys, values)
        return tokens + self.mlp(tokens)


class QualityHead(nn.Module):
    """Estimator of each mask's IoU with the object that the prompt refers to.

    SAM's head uses only a token, which has more information about the prompt than about the mask. This one also uses
    the features inside the mask and along its border, the certainty of its pixels, the agreement of the masks, and the
    mask's size. No gradient flows from it into the rest of the network, so that it does not influence the masks.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        inputs = 2 * channels + 2 * dim
        self.norm = nn.LayerNorm(inputs)
        self.net = nn.Sequential(
            nn.Linear(inputs + NUM_MASKS + 3, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1)
        )

    def forward(self, masks: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Rate the masks of B objects.

        Args:
            masks: Logits (B, n, 256, 256).
            features: (B, D, 64, 64), the decoder's.
            tokens: (B, 1 + n, T): one for the whole output, and those that made the masks.

        Returns:
            (B, n), 0 to 1.
        """
        probability = masks.detach().float().sigmoid()
        chosen = (masks.detach() > 0).to(probability.dtype)
        uncertainty = probability * (1 - probability)
        cell = MASK_SIZE // EMBEDDING_SIZE
        inside = F.avg_pool2d(probability, cell).flatten(2)
        border = F.avg_pool2d(uncertainty, cell).flatten(2)
        area, length = inside.sum(-1, keepdim=True), border.sum(-1, keepdim=True)
        overlap = (probability * chosen).mean((2, 3))[..., None] * EMBEDDING_SIZE**2
        chosen_area = chosen.mean((2, 3))[..., None] * EMBEDDING_SIZE**2
        expected = overlap / (area + chosen_area - overlap + 1e-3)
        shared = torch.matmul(inside, inside.transpose(1, 2))
        own = inside.square().sum(-1, keepdim=True)
        agreement = shared / (own + own.transpose(1, 2) - shared + 1e-3)
        flat = features.detach().float().flatten(2).transpose(1, 2)
        tokens = tokens.detach().float()
        inputs = [
            torch.matmul(inside, flat) / (area + 1e-3),
            torch.matmul(border, flat) / (length + 1e-3),
            tokens[:, :1].expand(-1, masks.shape[1], -1),
            tokens[:, 1:],
        ]
        measures = [
            4 * agreement - 2,
            4 * expected - 2,
            (area + 0.1).log() / 2 - 1,
            length / (area + 0.1).sqrt(),
        ]
        return self.net(torch.cat([self.norm(torch.cat(inputs, -1)), *measures], -1))[..., 0].sigmoid()


class MaskDecoder(nn.Module):
    """A small U-Net over image and dense prompt embedding; tokens make the weights of its last layer."""

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

        cell = EMBEDDING_SIZE // x16.shape[-1]
        # Not by avg_pool2d, which OpenVINO 2026 computes wrongly for a constant.
        positions = image_pe.unflatten(3, (-1, cell)).unflatten(2, (-1, cell)).mean((3, 5)).flatten(2).transpose(1, 2)
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

        # Each mask token makes a 1x1 convolution to four subpixels, from 128 x 128 to 256 x 256.
        weights = torch.stack([net(tokens[:, 1 + i]) for i, net in enumerate(self.hyper)], 1)
        weights = weights.reshape(batch, NUM_MASKS * 4, -1)
        # Pixels come first, as in memory, so that training needs no change of layout.
        pixels = x128.permute(0, 2, 3, 1).flatten(1, 2)
        flat = (torch.bmm(pixels, weights[..., 1:].transpose(1, 2))).transpose(1, 2) + weights[..., :1]
        masks = F.pixel_shuffle(flat.reshape(batch, NUM_MASKS * 4, *x128.shape[-2:]), 2)
        return masks, self.iou_head(masks, x64, tokens[:, : 1 + NUM_MASKS])

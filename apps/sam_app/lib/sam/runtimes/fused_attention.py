"""Compute SAM's attention with decomposed relative positions by one fused kernel, without a matrix of biases.

SAM's image encoder (Kirillov et al. 2023, arXiv:2304.02643; ``segment_anything/modeling/image_encoder.py``) adds to the
score of query ``(y, x)`` and key ``(v, u)`` the bias ``q . Rh[y, v] + q . Rw[x, u]``. Its rank is small: with the
query's products ``q . Rh[y, :]`` and ``q . Rw[x, :]`` appended to the query, and the indicators of ``v`` and ``u``
appended to the key, the scalar product of the two is the sum of score and bias. So a fused kernel computes the same as
SAM (except for rounding), and no 4096 x 4096 matrix is written.
"""

from types import MethodType
from typing import Any, cast

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import nn


def fuse_attention(encoder: nn.Module) -> int:
    """Make every SAM attention of an image encoder use the fused kernel, weights unchanged; return their number."""
    found = [module for module in encoder.modules() if isinstance(module, Attention)]
    for module in found:
        module.forward = MethodType(fused_forward, module)
    return len(found)


def fused_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Compute attention in place of ``Attention.forward``: ``(B, H, W, C)`` to the same shape."""
    batch, height, width, _ = x.shape
    qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # each (B, heads, H * W, c)
    scale = self.scale
    if self.use_rel_pos:
        q, k, scale = _with_positions(q, k, self.rel_pos_h, self.rel_pos_w, (height, width), self.scale)
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    joined = attended.transpose(1, 2).reshape(batch, height, width, -1)
    return cast(torch.Tensor, self.proj(joined))


def _with_positions(
    q: torch.Tensor,
    k: torch.Tensor,
    rel_pos_h: torch.Tensor,
    rel_pos_w: torch.Tensor,
    size: tuple[int, int],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return queries and keys ``(B, heads, H * W, c + H + W)``, padded to a multiple of 8, and their scale."""
    height, width = size
    batch, heads, length, _ = q.shape
    rows = get_rel_pos(height, height, rel_pos_h).to(q.dtype)  # (H, H, c): query row, key row
    columns = get_rel_pos(width, width, rel_pos_w).to(q.dtype)
    grid = q.reshape(batch, heads, height, width, -1)
    by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).reshape(batch, heads, length, height)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).reshape(batch, heads, length, width)
    one_row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    one_column = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    positions = torch.cat([one_row, one_column], dim=1).expand(batch, heads, -1, -1)
    # The bias is not scaled, so the scale is applied only to the query's own part.
    q = torch.cat([q * scale, by_row, by_column], dim=-1)
    k = torch.cat([k, positions], dim=-1)
    padding = -q.shape[-1] % 8  # fused kernels require aligned heads
    return F.pad(q, (0, padding)), F.pad(k, (0, padding)), 1.0

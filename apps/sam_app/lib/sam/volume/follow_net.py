"""The network that follows an object from one slice to the next.

It sees the next slice, the previous slice with the object's mask there, and the slice that a user marked with its mask,
all cut out around the object, and says where the object is on the next slice and whether it is there at all. It is
trained on objects of any kind, so that it learns to compare slices, not to know organs; the same task is given to
networks by Sli2Vol (Yeung et al. 2021, arXiv:2105.12722) and PAM (Chen et al. 2024, arXiv:2408.13836). How much each
cell looks like the object by its grey value alone is worked out for it, so that it need not learn what a histogram is.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.tiny_encoder import Context
from lib.sam.models.tiny_layers import ConvNorm, Residual, double

SIDE = 128
"""Rows and columns of the part of a slice that the network sees."""

CHANNELS = 5
"""Grey values of the next, the previous and the marked slice, and the masks of the latter two."""

_BINS = 32
"""Of the histograms of grey values."""

_WIDTHS = (64, 96, 128, 160)
"""Channels at 64, 32, 16 and 8 cells per side."""


class FollowNet(nn.Module):
    """A small U-Net, (B, 5, 128, 128) to the next slice's mask and whether the object is there."""

    def __init__(self) -> None:
        super().__init__()
        w64, w32, w16, w8 = _WIDTHS
        self.enter = nn.Sequential(ConvNorm(4 * (CHANNELS + 2), w64), Residual(w64))
        self.down32 = nn.Sequential(ConvNorm(w64, w32, stride=2), Residual(w32))
        self.down16 = nn.Sequential(ConvNorm(w32, w16, stride=2), Residual(w16), Context(w16))
        self.down8 = nn.Sequential(ConvNorm(w16, w8, stride=2), Residual(w8), Context(w8), Residual(w8))
        self.up16 = nn.Sequential(ConvNorm(w8 + w16, w16, 1), Residual(w16))
        self.up32 = nn.Sequential(ConvNorm(w16 + w32, w32, 1), Residual(w32))
        self.up64 = nn.Sequential(ConvNorm(w32 + w64, w64, 1), Residual(w64))
        self.leave = nn.Conv2d(w64, 4, 1)
        self.present = nn.Sequential(nn.Linear(w8 + w64 + 1, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Find the object on the next slice.

        Args:
            seen: float (B, 5, 128, 128): grey values of the next, the previous and the marked slice, each 0 to 1 after
                windowing, then the masks on the previous and on the marked slice, 0 to 1.

        Returns:
            Logits (B, 128, 128), above 0 inside the object, and (B,), above 0 if it is there.
        """
        here, before, marked, mask_before, mask_marked = seen.unbind(1)
        alike = [likelihood(here, before, mask_before), likelihood(here, marked, mask_marked)]
        x64 = self.enter(F.pixel_unshuffle(2 * torch.cat([seen, torch.stack(alike, 1)], 1) - 1, 2))
        x32 = self.down32(x64)
        x16 = self.down16(x32)
        x8 = self.down8(x16)
        y16 = self.up16(torch.cat([double(x8), x16], 1))
        y32 = self.up32(torch.cat([double(y16), x32], 1))
        y64 = self.up64(torch.cat([double(y32), x64], 1))
        logits = F.pixel_shuffle(self.leave(y64), 2)[:, 0]
        inside = F.avg_pool2d(logits.detach().sigmoid()[:, None], 2)
        area = inside.sum((2, 3))
        found = (y64 * inside).sum((2, 3)) / (area + 1)
        facts = torch.cat([x8.mean((2, 3)), found, (area + 1).log() / 4], 1)
        return logits, self.present(facts)[:, 0]


def likelihood(here: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return how much each cell looks like an object by its grey value, and not like what is around it.

    Args:
        here: float (B, H, W), grey values 0 to 1.
        other: Likewise, of the slice on which the object is known.
        mask: float (B, H, W) 0 to 1, the object there.

    Returns:
        float32 (B, H, W), 0 to 1: the share of the object's histogram in both, which count alike.
    """
    bins = [_bins(values) for values in (here, other)]
    around = 1 - F.max_pool2d(mask[:, None], 5, 1, 2)[:, 0]
    inside, outside = (_histogram(bins[1], weight.float()) for weight in (mask, around))
    share = inside / (inside + outside)
    return share.gather(1, bins[0].flatten(1)).view(here.shape)


def _bins(values: Tensor) -> Tensor:
    """Return the bin of each cell, of its grey value without most of the noise, int64 (B, H, W)."""
    smooth = F.avg_pool2d(values[:, None].float(), 3, 1, 1, count_include_pad=False)[:, 0]
    return (smooth * _BINS).long().clamp(0, _BINS - 1)


def _histogram(bins: Tensor, weight: Tensor) -> Tensor:
    """Return the smoothed distributions (B, _BINS) of bins (B, H, W) by weight; no bin is empty."""
    counts = torch.zeros(len(bins), _BINS, device=bins.device).scatter_add_(1, bins.flatten(1), weight.flatten(1))
    counts = counts / counts.sum(1, keepdim=True).clamp_min(1e-3)
    kernel = torch.tensor([[[1.0, 4.0, 6.0, 4.0, 1.0]]], device=bins.device) / 16
    smooth = F.conv1d(F.pad(counts[:, None], (2, 2), mode="replicate"), kernel)[:, 0]
    return smooth + 1e-3

"""The image encoder of ``sam_tiny``: a convolutional pyramid, run once per image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.models.tiny_layers import MASK_SIZE, STEM_SIZE, ConvNorm, Residual, TinyConfig, double


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

    Medical images have any window. Two local standard scores (neighbourhoods of about 1/11 and 1/3 of the side) and
    one over the whole image make faint borders visible to the network independently of the window.
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
        return self.encode(self.prepare(x))

    def prepare(self, x: Tensor) -> Tensor:
        """Return what :meth:`encode` takes; variances of nearly equal values, so in float32 at any precision."""
        return local_contrast(x)

    def encode(self, rich: Tensor) -> Tensor:
        """Encode images (B, 6, S, S) from :meth:`prepare`."""
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

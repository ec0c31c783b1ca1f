"""Find an object on a slice from a neighbouring slice's mask, by the network of :mod:`lib.sam.volume.follow_net`.

Slices are cut out around the object and scaled to the network's input, so that small and large objects look alike to it
and the cost does not depend on the image's size. It serves every model: it goes on from the masks of that model on the
marked slices, and neither encodes nor decodes the others.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.sam.models.tiny_layers import ConvNorm
from lib.sam.packed_mask import extent
from lib.sam.volume.follow_net import SIDE, FollowNet

WEIGHTS = Path(__file__).with_name("follower.safetensors")
"""In half precision, made by ``scripts/train_follower``; ``follower.md`` says of what. They belong to the code."""

_ROOM = 2.0
"""Side of what is cut out, as a multiple of the object's longer side."""

_MIN_ROOM = 40.0
"""Its side in pixels, at least."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice and, where it is known, the object on it.

    Args:
        grey: ``(H, W)`` float32 from 0 to 1.
        mask: ``(H, W)`` bool or float from 0 to 1, not empty; None if it is to be found.
    """

    grey: torch.Tensor
    mask: np.ndarray | None = None

    @classmethod
    def of(cls, frame: np.ndarray, mask: np.ndarray | None = None) -> Slice:
        """Return the slice of a windowed frame, ``(H, W, 3)`` uint8."""
        total = frame[..., 0].astype(np.float32) + frame[..., 1] + frame[..., 2]
        return cls(torch.from_numpy(total / (3 * 255)), mask)


@dataclass(frozen=True, eq=False)
class Found:
    """The object on a slice.

    Args:
        probability: ``(H, W)`` float32 from 0 to 1, 0 beyond what was cut out.
        presence: Probability that it is there, 0 to 1.
        score: IoU with the truth that the probabilities let expect, 0 to 1.
    """

    probability: np.ndarray
    presence: float
    score: float


class Follower:
    """The network with its weights. Threads may share it and take turns, as each uses all cores.

    Args:
        net: Changed: its normalisations become part of its convolutions.
    """

    def __init__(self, net: FollowNet) -> None:
        self._net = _fused(net.eval().requires_grad_(False)).to(memory_format=torch.channels_last)
        self._lock = threading.Lock()

    @torch.inference_mode()
    def find(self, marked: Slice, before: Slice, here: Slice) -> Found:
        """Find the object on a slice.

        Args:
            marked: The slice on which a user marked it.
            before: The slice beside this one, in the direction of following from the marked one.
            here: The slice.
        """
        assert before.mask is not None and marked.mask is not None
        window = _window(before.mask > 0.5)
        seen = [_cut(one.grey, window) for one in (here, before)]
        own = window if before is marked else _window(marked.mask > 0.5, like=window)
        seen += [_cut(marked.grey, own)]
        for one, where in ((before, window), (marked, own)):
            seen.append(_cut(torch.from_numpy(np.asarray(one.mask, dtype=np.float32)), where))
        with self._lock:
            logits, present = self._net(torch.stack(seen)[None])
        probability = logits.sigmoid()[0]
        mask = (probability > 0.5).float()
        both = float((probability * mask).sum())
        score = both / max(float(probability.sum() + mask.sum()) - both, 1.0)
        pasted = _paste(probability, window, here.grey.shape)
        return Found(pasted.numpy(), float(present.sigmoid()), score)


@cache
def bundled_follower() -> Follower:
    """Return the follower that belongs to the app, loaded once."""
    net = FollowNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return Follower(net)


def _fused(net: FollowNet) -> FollowNet:
    """Return the network, which says the same with its normalisations made part of its convolutions."""
    for module in list(net.modules()):
        if isinstance(module, ConvNorm):
            convolution, normalisation = module[0], module[1]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                module[0], module[1] = fuse_conv_bn_eval(convolution, normalisation), nn.Identity()
    return net


@dataclass(frozen=True)
class _Window:
    """A square of pixels, which may reach beyond the image: its first row and column, and its side."""

    top: int
    left: int
    side: int


def _window(mask: np.ndarray, like: _Window | None = None) -> _Window:
    """Return the square around a non-empty mask, of another one's size if that is given."""
    rows, columns = extent(np.any(mask, axis=1)), extent(np.any(mask, axis=0))
    longer = max(rows.stop - rows.start, columns.stop - columns.start)
    side = round(max(_ROOM * longer, _MIN_ROOM)) if like is None else like.side
    return _Window((rows.start + rows.stop - side) // 2, (columns.start + columns.stop - side) // 2, side)


def _cut(values: torch.Tensor, window: _Window) -> torch.Tensor:
    """Return what is in a window, ``(SIDE, SIDE)``; 0 beyond the image."""
    height, width = values.shape
    top, left = max(window.top, 0), max(window.left, 0)
    inside = values[top : window.top + window.side, left : window.left + window.side]
    below, beside = window.top + window.side - height, window.left + window.side - width
    whole = F.pad(inside, (left - window.left, max(beside, 0), top - window.top, max(below, 0)))
    return F.interpolate(whole[None, None], (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]


def _paste(values: torch.Tensor, window: _Window, shape: tuple[int, ...]) -> torch.Tensor:
    """Return an image of this shape with these values ``(SIDE, SIDE)`` in a window, 0 elsewhere."""
    size = (window.side, window.side)
    whole = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    top, left = max(window.top, 0), max(window.left, 0)
    result = torch.zeros(shape)
    place = result[top : window.top + window.side, left : window.left + window.side]
    place += whole[top - window.top :, left - window.left :][: place.shape[0], : place.shape[1]]
    return result

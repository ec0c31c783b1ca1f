"""Begin a run with the weights of an earlier checkpoint, also where its input was smaller, and blend with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lib.sam.models import tiny as sam_tiny


def warm_start(model: sam_tiny.SamTiny, path: Path) -> list[str]:
    """Give a model the tensors of a checkpoint that it has too, and return the names of those that stay new.

    A checkpoint for smaller images fits: its first convolution is spread over the pixels that take the place of one,
    so that the network answers as before for an image that is the small one, enlarged.

    Args:
        model: Changed in place.
        path: safetensors file of this architecture, of any configuration.
    """
    from safetensors.torch import load_file

    earlier = load_file(path)
    state = model.state_dict()
    fresh = []
    for name, tensor in state.items():
        found = earlier.get(name)
        if found is not None and name == "image_encoder.stem.0.0.weight":
            found = spread(found, tensor.shape[1])
        if found is None or found.shape != tensor.shape:
            fresh.append(name)
        else:
            state[name] = found.to(tensor.dtype)
    model.load_state_dict(state)
    return fresh


@torch.no_grad()
def blend(model: sam_tiny.SamTiny, path: Path, part: float) -> None:
    """Move a model's weights back towards those of the checkpoint that its run began with.

    The mean of weights before and after a short run keeps what was known and most of what is new (Wortsman et al.
    2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903).

    Args:
        model: Changed in place.
        path: safetensors file of the same configuration.
        part: Of the model's own weights, 0 to 1.
    """
    from safetensors.torch import load_file

    earlier = load_file(path)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(earlier[name].to(tensor).lerp(tensor, part))


def spread(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weights (O, 6 a^2, k, k) over folded a x a pixels for (O, `channels` = 6 b^2, k, k).

    b must be a multiple of a. Each weight is shared evenly among the (b / a)^2 finer pixels.
    """
    outputs, inputs, height, width = weight.shape
    old, new = round((inputs / 6) ** 0.5), round((channels / 6) ** 0.5)
    if 6 * old**2 != inputs or 6 * new**2 != channels or new % old:
        raise ValueError(f"weights over {inputs} folded channels cannot be spread over {channels}")
    times = new // old
    planes = weight.reshape(outputs * 6, old, old, height * width)
    planes = planes.repeat_interleave(times, 1).repeat_interleave(times, 2) / times**2
    return planes.reshape(outputs, channels, height, width).contiguous(memory_format=torch.channels_last)

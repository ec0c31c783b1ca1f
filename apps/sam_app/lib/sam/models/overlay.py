"""What was learned: tensors that take the place of those of a model's mask decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

TOKENS, DENSE = "prompt.tokens", "prompt.dense"


class OverlayError(ValueError):
    """A file of learned weights is damaged or does not fit its model; the message says why."""


@dataclass(frozen=True, eq=False)
class LearnedPrompt:
    """A prompt that stands for a label: what the prompt encoder would give for it.

    Args:
        tokens: ``(1, N, C)`` float32.
        dense: ``(1, C, 1, 1)`` float32: the same at every place of the embedding.
    """

    tokens: Tensor
    dense: Tensor


@dataclass(frozen=True, eq=False)
class Overlay:
    """Learned weights of one version.

    Args:
        decoder: All tensors of the mask decoder's ``state_dict``, float32.
        prompt: Finds a label by itself; None: it answers a user's prompts.
    """

    decoder: Mapping[str, Tensor]
    prompt: LearnedPrompt | None = None

    @classmethod
    def of(cls, decoder: nn.Module, prompt: LearnedPrompt | None = None) -> Overlay:
        """Return the present weights of a decoder as an overlay of its own."""
        return cls({name: tensor.detach().clone() for name, tensor in decoder.state_dict().items()}, prompt)

    def apply(self, decoder: nn.Module) -> None:
        """Give a decoder these weights.

        Raises:
            OverlayError: If they are another decoder's.
        """
        try:
            decoder.load_state_dict(dict(self.decoder), assign=True)  # also into one whose weights were dropped
        except RuntimeError as error:
            raise OverlayError("the learned weights are those of another decoder") from error

    def to_bytes(self, facts: Mapping[str, str]) -> bytes:
        """Return the content of a safetensors file, in half precision, with facts in its header."""
        tensors = {f"decoder.{name}": tensor for name, tensor in self.decoder.items()}
        if self.prompt:
            tensors |= {TOKENS: self.prompt.tokens, DENSE: self.prompt.dense}
        stored = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}
        return save(stored, dict(facts))


def read_overlay(path: Path) -> Overlay:
    """Return the overlay in a file.

    Raises:
        OverlayError: If it is damaged or something else.
        OSError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise OverlayError(f"the learned weights cannot be read: {error}") from error
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise OverlayError("the learned weights are not finite")
    decoder = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith("decoder.")}
    is_automatic = TOKENS in tensors and DENSE in tensors
    return Overlay(decoder, LearnedPrompt(tensors[TOKENS], tensors[DENSE]) if is_automatic else None)

"""Interface between a predictor and the runtime of its networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""Precision of the products in the image encoder and, on a CPU in bfloat16, in the decoder; results are float32."""


class RuntimeUnavailableError(RuntimeError):
    """This runtime cannot run the model here; the message says why, and names no server path."""


def never() -> bool:
    """Return False: never stop."""
    return False


def all_masks(
    decoder: Any, image_pe: torch.Tensor, levels: Sequence[torch.Tensor], sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Run :meth:`Runtime.decode` by a decoder's ``predict_masks``: of SAM or, with finer levels, of SAM 2.

    Args:
        decoder: The decoder, on PyTorch.
        image_pe: ``(1, C, h, w)`` float32: the positional encoding of the image.
        levels: See :meth:`Runtime.decode`.
        sparse: Likewise.
        dense: Likewise.
    """
    features, *finer = levels
    results: tuple[torch.Tensor, ...] = decoder.predict_masks(
        image_embeddings=features,
        image_pe=image_pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        **({"repeat_image": True, "high_res_features": finer} if finer else {}),
    )
    return results


@dataclass(frozen=True, eq=False)
class OtherNetwork:
    """A network that a model has beside its image encoder and its mask decoder.

    Args:
        module: As PyTorch runs it.
        form: Returns a module with the same inputs and, but for rounding, the same output, which is converted.
        examples: Inputs, with which the two are compared; with the first, the form is traced.
        any_number: For each input, a name for the length of its first axis if that can be any; else None.
    """

    module: nn.Module
    form: Callable[[], nn.Module]
    examples: Sequence[tuple[torch.Tensor, ...]]
    any_number: tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Networks:
    """All networks of a model that a runtime runs.

    Args:
        encoder: ``(1, 3, side, side)`` to features, or to a sequence of them, the coarsest first.
        decoder: With SAM's or SAM 2's ``predict_masks``.
        image_pe: ``(1, C, h, w)`` float32: the positional encoding of the image.
        side: Side of the encoder's input in pixels.
        others: Others by name.
    """

    encoder: nn.Module
    decoder: nn.Module
    image_pe: torch.Tensor
    side: int
    others: Mapping[str, OtherNetwork] = field(default_factory=dict)

    def drop_weights(self) -> None:
        """Drop PyTorch's copy of the weights: a runtime has them."""
        for module in (self.encoder, self.decoder, *(other.module for other in self.others.values())):
            module.to("meta")


class Runtime(Protocol):
    """Runtime of a model's image encoder, mask decoder and other networks on one device.

    Attributes:
        name: Display name, e.g. ``OpenVINO 2026.4.1, CPU, float32``.
        key: Identifies all that affects the encoder's values; part of each embedding's key.
        decode_batch: Number of objects decoded at once: many on a GPU; few on a CPU, where a batch saves little or no
            time and another request may be waiting.
    """

    name: str
    key: str
    decode_batch: int

    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """Run the image encoder. Called by one thread at a time.

        Args:
            inputs: ``(1, 3, S, S)`` float32 on the CPU, preprocessed.
            should_stop: Called every few milliseconds, or before each of the encoder's blocks.

        Returns:
            ``(1, C, h, w)`` float32 on the device, in any layout in memory, followed by the finer levels if there are
            some.

        Raises:
            PreemptedError: If ``should_stop`` returned True before the end.
        """

    def decode(
        self, levels: Sequence[torch.Tensor], sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run the mask decoder for B objects on one image. Called by any number of threads.

        Args:
            levels: The image's embedding, ``(1, C, h, w)`` float32, followed by the finer levels if there are some.
            sparse: ``(B, N, C)`` float32: the prompt encoder's tokens, B >= 1, N >= 0.
            dense: ``(B, C, h, w)`` float32: its dense embedding.

        Returns:
            ``(B, 4, S, S)`` float32 logits and ``(B, 4)`` float32 predicted IoU: the single mask, then the three
            candidates. SAM 2's decoder also returns ``(B, 4, C)``, the masks' tokens, and ``(B, 1)``, the logit of
            whether the object is there.
        """

    def compute(self, network: str, *inputs: torch.Tensor) -> torch.Tensor:
        """Run one of the model's other networks, see :attr:`Networks.others`. Called by one thread at a time.

        Args:
            network: Its name.
            inputs: On the device, float32.
        """

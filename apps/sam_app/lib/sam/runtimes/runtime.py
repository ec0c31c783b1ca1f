"""Interface between a predictor and the runtime of its networks."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""Precision of the products in the image encoder and, on a CPU in bfloat16, in the decoder; results are float32."""


class RuntimeUnavailableError(RuntimeError):
    """This runtime cannot run the model here; the message says why, and names no server path."""


def never() -> bool:
    """Return False: never stop."""
    return False


def all_masks(
    decoder: Any, image_pe: torch.Tensor, features: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run :meth:`Runtime.decode` by a PyTorch decoder with SAM's ``predict_masks``.

    Args:
        decoder: The decoder.
        image_pe: ``(1, C, h, w)`` float32: the positional encoding of the image.
        features: See :meth:`Runtime.decode`.
        sparse: Likewise.
        dense: Likewise.
    """
    masks, scores = decoder.predict_masks(
        image_embeddings=features,
        image_pe=image_pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    return masks, scores


class Runtime(Protocol):
    """Runtime of a model's image encoder and mask decoder on one device.

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
        self, features: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run SAM's mask decoder for B objects on one image. Called by any number of threads.

        Args:
            features: ``(1, C, h, w)`` float32: the image's embedding.
            sparse: ``(B, N, C)`` float32: the prompt encoder's tokens, B >= 1, N >= 0.
            dense: ``(B, C, h, w)`` float32: its dense embedding.

        Returns:
            ``(B, 4, S, S)`` float32 logits and ``(B, 4)`` float32 predicted IoU: the single mask, then the three
            candidates.
        """

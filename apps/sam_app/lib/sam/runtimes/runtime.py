"""What a predictor needs of whatever runs its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""Of the image encoder's arithmetic; decoding and everything that is handed on is float32."""


class RuntimeUnavailableError(RuntimeError):
    """This runtime cannot run the model here; the message says why, and names no server path."""


def never() -> bool:
    """Never stop."""
    return False


def all_masks(
    decoder: Any, features: torch.Tensor, image_pe: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All masks of a PyTorch decoder with SAM's ``predict_masks``; otherwise as :meth:`Runtime.decode`."""
    masks, scores = decoder.predict_masks(
        image_embeddings=features,
        image_pe=image_pe,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    return masks, scores


class Runtime(Protocol):
    """Runs a model's image encoder and mask decoder on one device.

    Attributes:
        name: For people, e.g. ``OpenVINO 2026.4.1, CPU, float32``.
        key: Changes whenever the encoder's numbers could; part of each embedding's key.
        decode_batch: Objects decoded at once: on a CPU few, as they take no less time together than one after another,
            and somebody else may be waiting; on a GPU many.
    """

    name: str
    key: str
    decode_batch: int

    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """The image encoder. Called by one thread at a time.

        Args:
            inputs: ``(1, 3, S, S)`` float32 on the CPU, preprocessed.
            should_stop: Asked every few milliseconds, or before each of the encoder's blocks.

        Returns:
            ``(1, C, h, w)`` float32 on the device, and the finer levels of those models that have some.

        Raises:
            PreemptedError: If ``should_stop`` said so before it was through.
        """

    def decode(
        self, features: torch.Tensor, image_pe: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks of SAM's mask decoder for B objects on one image. Called by any number of threads.

        Args:
            features: ``(1, C, h, w)`` float32: the image.
            image_pe: ``(1, C, h, w)`` float32: its positional encoding.
            sparse: ``(B, N, C)`` float32: the prompt encoder's tokens, B >= 1, N >= 0.
            dense: ``(B, C, h, w)`` float32: its dense embedding.

        Returns:
            ``(B, 4, 256, 256)`` float32 logits and ``(B, 4)`` float32 predicted IoU: the single mask, then the three
            candidates.
        """

"""Image embeddings and the cache that keeps them, so that an image is encoded once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from lib.sam.byte_cache import ByteBoundedCache


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder made of one image.

    Args:
        features: ``(1, C, h, w)`` float32 on the model's device; never written to.
        image_size: ``(height, width)`` of the original image in pixels.
        key: The content's key, see :func:`embedding_key`.
        finer: Features of higher resolution, the finest first, where the model's decoder takes some (SAM 2's).
    """

    features: torch.Tensor
    image_size: tuple[int, int]
    key: str
    finer: tuple[torch.Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of all features in bytes."""
        return sum(level.numel() * level.element_size() for level in (self.features, *self.finer))


def embedding_key(image: np.ndarray, model_key: str) -> str:
    """SHA-256 of the image's pixels and shape and of what identifies the model, in hexadecimal.

    Args:
        image: ``(H, W, 3)`` uint8, after windowing: the pixels that the encoder gets.
        model_key: Changes whenever the encoder's numbers could: model, checkpoint, runtime, precision.
    """
    digest = hashlib.sha256(f"{model_key}|{image.shape}|{image.dtype}|".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class EmbeddingCache(ByteBoundedCache[str, Embedding]):
    """Embeddings by :func:`embedding_key`.

    Args:
        max_bytes: Bound on the bytes of the kept embeddings; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, lambda embedding: embedding.nbytes)

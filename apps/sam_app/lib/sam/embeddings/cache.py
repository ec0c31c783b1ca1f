"""Image embeddings and the cache that keeps them, in memory and on disk, so that an image is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lib.base.cache import ByteBoundedCache

if TYPE_CHECKING:
    from lib.sam.embeddings.disk import EmbeddingFiles


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
    """Embeddings by :func:`embedding_key`: in memory and, with ``files``, on disk as well.

    One that is not in memory is read from disk, else computed and written there; one request does so, the others for
    the same key wait. From disk come values rounded to float16, each by at most 2^-11 of it, see
    :func:`lib.sam.embeddings.disk.pack`: a mask of theirs can differ from the first one in a pixel on its border.

    Args:
        max_bytes: Bound on the bytes of the embeddings kept in memory; 0 keeps none.
        files: Keeps them on disk.
        device: Where those from disk are put: the models' device.
    """

    def __init__(self, max_bytes: int, files: EmbeddingFiles | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(max_bytes, lambda embedding: embedding.nbytes)
        self._files = files
        self._device = device

    def _make(self, key: str, compute: Callable[[], Embedding]) -> Embedding:
        """From disk if it is there; else computed, and written there."""
        files = self._files
        kept = files.get(key, self._device) if files else None
        if kept is not None:
            return kept
        computed = compute()
        if files:
            files.put(computed)
        return computed

    def stats(self) -> dict[str, int]:
        """Of the memory, see :meth:`ByteBoundedCache.stats`; of the disk, if it is used, after ``disk_``.

        A request is a hit in memory, a hit on disk, or computed: ``misses`` in memory are the latter two.
        """
        on_disk = self._files.stats() if self._files else {}
        return {**super().stats(), **{f"disk_{name}": count for name, count in on_disk.items()}}

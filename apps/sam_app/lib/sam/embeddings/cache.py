"""Image embeddings and their cache in memory and on disk, so that an image is encoded once."""

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
    """The image encoder's output for one image.

    Args:
        features: ``(1, C, h, w)`` float32 on the model's device; never written to.
        image_size: ``(height, width)`` of the original image in pixels.
        key: The content's key, see :func:`embedding_key`.
        finer: Features of higher resolution, the finest first, if the model's decoder takes them (SAM 2's).
    """

    features: torch.Tensor
    image_size: tuple[int, int]
    key: str
    finer: tuple[torch.Tensor, ...] = ()

    @property
    def levels(self) -> tuple[torch.Tensor, ...]:
        """The features of all resolutions, the coarsest first."""
        return (self.features, *self.finer)

    @property
    def nbytes(self) -> int:
        """Size of all features in bytes."""
        return sum(level.numel() * level.element_size() for level in self.levels)


def embedding_key(image: np.ndarray, model_key: str) -> str:
    """Return the SHA-256 of an image's pixels and shape and of the model's key, in hexadecimal.

    Args:
        image: ``(H, W, 3)`` uint8, after windowing: the pixels that the encoder gets.
        model_key: Identifies all that affects the encoder's values: model, checkpoint, runtime, precision.
    """
    digest = hashlib.sha256(f"{model_key}|{image.shape}|{image.dtype}|".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class EmbeddingCache(ByteBoundedCache[str, Embedding]):
    """Embeddings by :func:`embedding_key`: in memory and, with ``files``, on disk as well.

    An embedding that is not in memory is read from disk, else computed and written there; one request does so, the
    others for the same key wait. Values from disk are rounded to float16, with a relative error of at most 2^-11, see
    :func:`lib.sam.embeddings.disk.pack`: a mask decoded from them can differ by some pixels on its border.

    Args:
        max_bytes: Bound on the bytes of the embeddings in memory; with 0 none are stored there.
        files: Stores them on disk.
        device: Device for embeddings from disk: the models' device.
    """

    def __init__(self, max_bytes: int, files: EmbeddingFiles | None = None, device: torch.device | str = "cpu") -> None:
        super().__init__(max_bytes, lambda embedding: embedding.nbytes)
        self._files = files
        self._device = device

    def _make(self, key: str, compute: Callable[[], Embedding]) -> Embedding:
        """Read an embedding from disk; if it is not there, compute it and write it to disk."""
        files = self._files
        stored = files.get(key, self._device) if files else None
        if stored is not None:
            return stored
        computed = compute()
        if files:
            files.put(computed)
        return computed

    def stats(self) -> dict[str, int]:
        """Return the counts for memory, see :meth:`ByteBoundedCache.stats`, and for the disk with prefix ``disk_``.

        A request is a hit in memory, a hit on disk, or computed; ``misses`` counts the latter two.
        """
        on_disk = self._files.stats() if self._files else {}
        return {**super().stats(), **{f"disk_{name}": count for name, count in on_disk.items()}}

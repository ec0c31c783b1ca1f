"""Image embeddings and the cache that keeps them, so that an image is encoded once.

Concurrency: one lock guards the table of entries and is never held while an embedding is computed. Requests for
the same key at the same time wait for one computation; requests for other keys are not held up by it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLong
from dataclasses import dataclass

import numpy as np
import torch

from lib.sam.clock import TimeLimitError, current_clock


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder made of one image.

    Args:
        features: ``(1, C, h, w)`` float32 on the model's device; never written to.
        image_size: ``(height, width)`` of the original image in pixels.
        key: The content's key, see :func:`embedding_key`.
    """

    features: torch.Tensor
    image_size: tuple[int, int]
    key: str

    @property
    def nbytes(self) -> int:
        """Size of the features in bytes."""
        return self.features.numel() * self.features.element_size()


def embedding_key(image: np.ndarray, model_key: str) -> str:
    """SHA-256 of the image's pixels and shape and of what identifies the model, in hexadecimal.

    Args:
        image: ``(H, W, 3)`` uint8, after windowing: the pixels that the encoder gets.
        model_key: Changes whenever the encoder's numbers could: model, checkpoint, runtime, precision.
    """
    digest = hashlib.sha256(f"{model_key}|{image.shape}|{image.dtype}|".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


class EmbeddingCache:
    """The least recently used embeddings go when the sum of their bytes passes the bound. Thread-safe.

    Args:
        max_bytes: Bound on the bytes of the kept embeddings; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Embedding] = OrderedDict()
        self._running: dict[str, Future[Embedding]] = {}
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get_or_compute(self, key: str, compute: Callable[[], Embedding]) -> Embedding:
        """The embedding of that key; ``compute`` is called only if it is neither kept nor being computed.

        Raises:
            TimeLimitError: If the current clock's time is up while another request computes it.
            Exception: What ``compute`` raises, in every request that waited for it; nothing is kept then. Only the
                time limit of another request is not passed on: the next one that waited computes it.
        """
        with self._lock:
            kept = self._entries.get(key)
            if kept is not None:
                self._entries.move_to_end(key)
                self._hits += 1
                return kept
            running = self._running.get(key)
            if running is None:
                mine: Future[Embedding] = Future()
                self._running[key] = mine
                self._misses += 1
            else:
                self._hits += 1
        if running is not None:
            try:
                with current_clock().stage("wait"):
                    return running.result(min(current_clock().remaining, threading.TIMEOUT_MAX))
            except (TimeLimitError, WaitedTooLong):
                current_clock().check()
                return self.get_or_compute(key, compute)

        try:
            embedding = compute()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, embedding)
        mine.set_result(embedding)
        return embedding

    def _keep(self, key: str, embedding: Embedding) -> None:
        self._entries[key] = embedding
        self._bytes += embedding.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.nbytes

    def stats(self) -> dict[str, int]:
        """Counts since the start: ``hits``, ``misses``; now: ``entries``, ``bytes``."""
        with self._lock:
            return {
                "hits": self._hits,
                "misses": self._misses,
                "entries": len(self._entries),
                "bytes": self._bytes,
            }

"""Memory of what each client's last clicks on a slice or a volume gave, so that the next one goes on from there."""

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from cachetools import LRUCache

Result = TypeVar("Result")

Key = tuple[str, str, str]
"""The client; the key of the picture (of its windowed pixels and the model); the label."""

DEFAULT_PER_CLIENT = 64
DEFAULT_CLIENTS = 32
"""At 256 KiB each (one candidate's logits) at most 512 MiB, when all clients have clicked that often."""


class ClickMemory(Generic[Result]):
    """The last results by client, picture and label. Thread-safe.

    Clients do not affect each other: the client is part of the key, and one client's results do not evict another's,
    unless there are too many clients. Another image, slice, window or model has another picture key, so that results
    are not mixed up.

    Args:
        steps: At most this many results are stored for one key; the oldest are evicted first.
        per_client: At most this many results are stored per client; those of the least recently used keys are evicted
            first.
        clients: At most this many clients; those whose last click is oldest are evicted first.
    """

    def __init__(self, steps: int = 1, *, per_client: int = DEFAULT_PER_CLIENT, clients: int = DEFAULT_CLIENTS) -> None:
        self._steps = min(steps, per_client)
        self._per_client = per_client
        self._clients: LRUCache[str, LRUCache[Key, Sequence[Result]]] = LRUCache(clients)
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Sequence[Result]:
        """Return the last results, the latest last."""
        with self._lock:
            mine = self._clients.get(key[0])
            return () if mine is None else mine.get(key, ())

    def remember(self, key: Key, result: Result) -> None:
        """Store a result as the latest."""
        with self._lock:
            mine = self._clients.setdefault(key[0], LRUCache(self._per_client, getsizeof=len))
            mine[key] = (*mine.get(key, ()), result)[-self._steps :]

"""Memory of each client's last results on a slice or a volume, so that the next click refines the present mask."""

import threading
from typing import Generic, TypeVar

from cachetools import LRUCache

Result = TypeVar("Result")

Key = tuple[str, str, str]
"""The client; the key of the picture (of its windowed pixels and the model); the label."""

DEFAULT_PER_CLIENT = 32
DEFAULT_CLIENTS = 64
"""At 256 KiB each (one candidate's logits) at most 512 MiB, when all clients have clicked on that many pictures."""


class ClickMemory(Generic[Result]):
    """The last result by client, picture and label. Thread-safe.

    Clients do not affect each other: the client is part of the key, and one client's results do not evict another's,
    unless there are too many clients. Another image, slice, window or model has another picture key, so that results
    are not mixed up.

    Args:
        per_client: At most this many results are stored per client; the least recently used are evicted first.
        clients: At most this many clients; those whose last click is oldest are evicted first.
    """

    def __init__(self, per_client: int = DEFAULT_PER_CLIENT, clients: int = DEFAULT_CLIENTS) -> None:
        self._per_client = per_client
        self._clients: LRUCache[str, LRUCache[Key, Result]] = LRUCache(clients)
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Result | None:
        """Return the last result; None if there is none, or it was evicted."""
        with self._lock:
            mine = self._clients.get(key[0])
            return None if mine is None else mine.get(key)

    def remember(self, key: Key, result: Result) -> None:
        """Store a result in place of the previous one."""
        with self._lock:
            self._clients.setdefault(key[0], LRUCache(self._per_client))[key] = result

"""Memory of each client's last results on a slice or a volume, so that the next click refines the present mask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

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
        self._clients = clients
        self._entries: OrderedDict[str, OrderedDict[Key, Result]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Result | None:
        """Return the last result; None if there is none, or it was evicted."""
        with self._lock:
            mine = self._entries.get(key[0])
            if mine is None or key not in mine:
                return None
            mine.move_to_end(key)
            return mine[key]

    def remember(self, key: Key, result: Result) -> None:
        """Store a result in place of the previous one."""
        with self._lock:
            mine = self._entries.setdefault(key[0], OrderedDict())
            self._entries.move_to_end(key[0])
            mine[key] = result
            mine.move_to_end(key)
            if len(mine) > self._per_client:
                mine.popitem(last=False)
            if len(self._entries) > self._clients:
                self._entries.popitem(last=False)

"""What a client's clicks on a slice or a volume led to so far, so that the next click starts from the mask there is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

Key = tuple[str, str, str]
"""The client, what names the picture (its pixels, windowed, and the model), the label."""

DEFAULT_PER_CLIENT = 32
DEFAULT_CLIENTS = 64
"""With one candidate's logits, 256 KiB each, at most 512 MiB when all of them have clicked on as many pictures."""


class ClickMemory(Generic[Answer]):
    """The last answer by client, picture and label. Thread-safe.

    Two clients never meet: the client is part of the key, and what one remembers does not make another forget, unless
    there are too many of them. Neither does a client meet itself on another image, slice, window or model, as the
    picture's name differs.

    Args:
        per_client: At most this many answers of a client are kept; the least recently used go first.
        clients: Of at most this many clients; those who have not clicked for longest go first.
    """

    def __init__(self, per_client: int = DEFAULT_PER_CLIENT, clients: int = DEFAULT_CLIENTS) -> None:
        self._per_client = per_client
        self._clients = clients
        self._entries: OrderedDict[str, OrderedDict[Key, Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Answer | None:
        """The last answer; None if there is none, or it is forgotten."""
        with self._lock:
            mine = self._entries.get(key[0])
            if mine is None or key not in mine:
                return None
            mine.move_to_end(key)
            return mine[key]

    def remember(self, key: Key, answer: Answer) -> None:
        """Keep an answer in place of the one before."""
        with self._lock:
            mine = self._entries.setdefault(key[0], OrderedDict())
            self._entries.move_to_end(key[0])
            mine[key] = answer
            mine.move_to_end(key)
            if len(mine) > self._per_client:
                mine.popitem(last=False)
            if len(self._entries) > self._clients:
                self._entries.popitem(last=False)

"""What a client's clicks on a slice or a volume led to so far, so that the next click starts from the mask there is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

Key = tuple[str, str, str]
"""The client, what names the picture (its pixels, windowed, and the model), the label."""

DEFAULT_MAX_ENTRIES = 256
"""With one candidate's logits, 256 KiB each, 64 MiB."""


class ClickMemory(Generic[Answer]):
    """The last answer by client, picture and label. The least recently used go first. Thread-safe.

    Two clients never meet: the client is part of the key. Neither does a client meet itself on another image, slice,
    window or model, as the picture's name differs.

    Args:
        max_entries: At most this many are kept.
    """

    def __init__(self, max_entries: int = DEFAULT_MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Key, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Answer | None:
        """The last answer; None if there is none, or it is forgotten."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def remember(self, key: Key, answer: Answer) -> None:
        """Keep an answer in place of the one before."""
        with self._lock:
            self._entries[key] = answer
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

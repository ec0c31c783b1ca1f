"""Values that are dear to make stay in memory up to a number of bytes, and each is made once however many ask at once.

Concurrency: one lock guards the table of entries and is never held while a value is computed. Requests for the same key
at the same time wait for one computation; requests for other keys are not held up by it.

Own code: to ``cachetools`` each look at an entry is a use of it, also that of :meth:`ByteBoundedCache.drop`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lib.base.clock import PreemptedError, TimeLimitError, current_clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Running(Generic[V]):
    """A value that is being computed, and how many others wait for it."""

    future: Future[V] = field(default_factory=Future)
    waiting: int = 0


class ByteBoundedCache(Generic[K, V]):
    """The least recently used values go when the sum of their bytes passes the bound. Thread-safe.

    Args:
        max_bytes: Bound on the bytes of the kept values; 0 keeps none, and a larger value is not kept.
        size_of: Tells a value's bytes.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._running: dict[K, _Running[V]] = {}
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get_or_compute(self, key: K, compute: Callable[[], V]) -> V:
        """The value of that key; ``compute`` is called only if it is neither kept nor being computed.

        Raises:
            TimeLimitError: If the current clock's time is up while another request computes it.
            Exception: What ``compute`` raises, in every request that waited for it; nothing is kept then. Only that
                another request's time was up, or that it gave way, is not passed on: the next one computes it.
        """
        with self._lock:
            kept = self._entries.get(key)
            if kept is not None:
                self._entries.move_to_end(key)
                self._hits += 1
                return kept
            running = self._running.get(key)
            if running is None:
                mine = self._claim(key)
            else:
                running.waiting += 1
                self._hits += 1
        if running is None:
            return self._compute(key, compute, mine)
        try:
            with current_clock().stage("wait"):
                if not current_clock().waits_for(lambda seconds: bool(wait([running.future], seconds).done)):
                    current_clock().check()
                return running.future.result()
        except (TimeLimitError, PreemptedError):
            current_clock().check()
            return self.get_or_compute(key, compute)
        finally:
            with self._lock:
                running.waiting -= 1

    def compute_ahead(self, key: K, compute: Callable[[], V]) -> None:
        """Have that key's value before somebody asks; nothing is done if it is kept or being computed. Never waits.

        Raises:
            Exception: What ``compute`` raises.
        """
        with self._lock:
            if key in self._entries or key in self._running:
                return
            mine = self._claim(key)
        self._compute(key, compute, mine)

    def is_awaited(self, key: K) -> bool:
        """Whether somebody waits for that key's value, which another computes."""
        with self._lock:
            running = self._running.get(key)
            return running is not None and running.waiting > 0

    def _claim(self, key: K) -> _Running[V]:
        """With the lock held: whoever asks for it from now on waits for this one."""
        mine: _Running[V] = _Running()
        self._running[key] = mine
        self._misses += 1
        return mine

    def _compute(self, key: K, compute: Callable[[], V], mine: _Running[V]) -> V:
        try:
            value = self._make(key, compute)
        except BaseException as error:
            with self._lock:
                del self._running[key]
            mine.future.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, value)
        mine.future.set_result(value)
        return value

    def _make(self, key: K, compute: Callable[[], V]) -> V:
        """The value of a key that is not in memory; for those who have it elsewhere to look there first."""
        return compute()

    def _keep(self, key: K, value: V) -> None:
        """With the lock held."""
        self._entries[key] = value
        self._bytes += self._size_of(value)
        while self._bytes > self._max_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """With the lock held."""
        _, oldest = self._entries.popitem(last=False)
        self._bytes -= self._size_of(oldest)

    def give_up_oldest(self) -> bool:
        """No longer keep the value that was not used for longest; False if none is kept."""
        with self._lock:
            if not self._entries:
                return False
            self._forget_oldest()
        return True

    def drop(self, is_useless: Callable[[V], bool]) -> None:
        """No longer keep the values of which that is true; it is asked without the lock, and may take its time."""
        with self._lock:
            entries = list(self._entries.items())
        for key, value in entries:
            if not is_useless(value):
                continue
            with self._lock:
                if self._entries.get(key) is value:
                    del self._entries[key]
                    self._bytes -= self._size_of(value)

    def stats(self) -> dict[str, int]:
        """Counts since the start: ``hits``, ``misses``; now: ``entries``, ``bytes``."""
        with self._lock:
            return {
                "hits": self._hits,
                "misses": self._misses,
                "entries": len(self._entries),
                "bytes": self._bytes,
            }

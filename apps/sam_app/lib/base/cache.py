"""Cache bounded by bytes for values that are expensive to compute; each is computed once, even for parallel requests.

Concurrency: one lock guards the table of entries and is never held while a value is computed. Parallel requests for the
same key wait for one computation; requests for other keys do not wait for it.

``cachetools`` is not used: it counts every lookup as a use of the entry, also those of :meth:`ByteBoundedCache.drop`.
"""

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
    """A value that is being computed, and the number of requests that wait for it."""

    future: Future[V] = field(default_factory=Future)
    waiting: int = 0


class ByteBoundedCache(Generic[K, V]):
    """Cache bounded by bytes that evicts the least recently used values. Thread-safe.

    Args:
        max_bytes: Bound on the sum of the values' bytes; with 0 nothing is stored; a value above the bound is not
            stored.
        size_of: Returns a value's size in bytes.
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
        """Return a key's value; ``compute`` is called only if it is neither stored nor being computed.

        Raises:
            TimeLimitError: If the current clock's time is up while another request computes the value.
            Exception: What ``compute`` raises, in every request that waited for it; nothing is stored then. But if the
                computing request timed out or was preempted, one of the waiting requests computes the value instead.
        """
        is_request = not current_clock().gives_way
        with self._lock:
            stored = self._used(key)
            if stored is not None:
                return stored
            running = self._running.get(key)
            if running is None:
                own = self._claim(key)
            else:
                running.waiting += is_request
                self._hits += 1
        if running is None:
            return self._compute(key, compute, own)
        try:
            with current_clock().stage("wait"):
                if not current_clock().wait_until(lambda seconds: bool(wait([running.future], seconds).done)):
                    current_clock().check()
                return running.future.result()
        except (TimeLimitError, PreemptedError):
            current_clock().check()
            return self.get_or_compute(key, compute)
        finally:
            with self._lock:
                running.waiting -= is_request

    def find(self, key: K) -> V | None:
        """Return a key's value if it is stored."""
        with self._lock:
            return self._used(key)

    def _used(self, key: K) -> V | None:
        """Return a key's value if it is stored, which counts as a use; the lock is held."""
        stored = self._entries.get(key)
        if stored is not None:
            self._entries.move_to_end(key)
            self._hits += 1
        return stored

    def prefetch(self, key: K, compute: Callable[[], V]) -> None:
        """Prefetch a key's value; does nothing if it is stored or being computed. Never waits.

        Raises:
            Exception: What ``compute`` raises.
        """
        with self._lock:
            if key in self._entries or key in self._running:
                return
            own = self._claim(key)
        self._compute(key, compute, own)

    def is_awaited(self, key: K) -> bool:
        """Return whether a request, so not a batch, waits for a value that another thread computes."""
        with self._lock:
            running = self._running.get(key)
            return running is not None and running.waiting > 0

    def _claim(self, key: K) -> _Running[V]:
        """Register the computation of a key's value, for which later requests wait; call with the lock held."""
        own: _Running[V] = _Running()
        self._running[key] = own
        self._misses += 1
        return own

    def _compute(self, key: K, compute: Callable[[], V], own: _Running[V]) -> V:
        try:
            value = self._make(key, compute)
        except BaseException as error:
            with self._lock:
                del self._running[key]
            own.future.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._store(key, value)
        own.future.set_result(value)
        return value

    def _make(self, key: K, compute: Callable[[], V]) -> V:
        """Return a value that is not in memory; subclasses may look for it elsewhere before they compute it."""
        return compute()

    def _store(self, key: K, value: V) -> None:
        """Store a value and evict others beyond the bound; call with the lock held."""
        self._entries[key] = value
        self._bytes += self._size_of(value)
        while self._bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Evict the least recently used value; call with the lock held."""
        _, oldest = self._entries.popitem(last=False)
        self._bytes -= self._size_of(oldest)

    def evict_oldest(self) -> bool:
        """Evict the least recently used value; return False if the cache is empty."""
        with self._lock:
            if not self._entries:
                return False
            self._evict()
        return True

    def drop(self, is_useless: Callable[[V], bool]) -> None:
        """Evict the values for which ``is_useless`` returns True; it is called without the lock, and may be slow."""
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
        """Return ``hits`` and ``misses`` since the start, and the present ``entries`` and ``bytes``."""
        with self._lock:
            return {
                "hits": self._hits,
                "misses": self._misses,
                "entries": len(self._entries),
                "bytes": self._bytes,
            }

"""Limit on the memory that all images together may use, in bytes; it is reserved before it is used.

The reservation is what reading takes according to the header: a decoder's buffers, intermediate copies, the image.
Cached images count, too, and are evicted when their memory is needed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import psutil

from lib.base.allocator import return_unused_memory
from lib.base.clock import current_clock
from lib.imaging.image import ImageTooLargeError, MedicalImage

_MEBIBYTE = 2**20
_SHARE = 0.5
"""Of the available memory; the rest is for the models, the embeddings and the system."""
_WORKING_BYTES_PER_PIXEL = 32
_MAX_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.02
_TRIM_BYTES = 64 * _MEBIBYTE
"""From this size on, released memory is returned to the system at once."""
_UNLIMITED = 2**60


class MemoryBusyError(RuntimeError):
    """Raised when the memory that an image needs stays in use by other requests."""


class Reservation:
    """Reserved bytes of a budget, released by :meth:`release` or when the object is deleted.

    Args:
        budget: The budget that the bytes belong to.
        size: Number of bytes.
    """

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Release what exceeds ``size`` bytes."""
        released, self.size = max(0, self.size - size), min(size, self.size)
        self._budget.give_back(released)

    def absorb(self, other: Reservation) -> None:
        """Take over the bytes of another reservation."""
        self.size += other.size
        other.size = 0

    def split(self, size: int) -> Reservation:
        """Move this many bytes, or all, to a new reservation and return it."""
        size = min(size, self.size)
        self.size -= size
        return Reservation(self._budget, size)

    def release(self) -> None:
        """Release all bytes."""
        self.shrink(0)

    def __del__(self) -> None:
        self.release()


class MemoryBudget:
    """Bytes that can be reserved in parts. Thread-safe; releasing takes no lock, as any object's end can cause it.

    Args:
        total: Bytes that may be reserved at the same time.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._returned: deque[int] = deque()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._evictors: list[Callable[[], bool]] = []
        self._kept: WeakKeyDictionary[MedicalImage, Reservation] = WeakKeyDictionary()

    @property
    def taken(self) -> int:
        """Number of bytes that are reserved now."""
        with self._lock:
            while self._returned:
                self._taken -= self._returned.popleft()
            return self._taken

    def give_back(self, size: int) -> None:
        """Release this many bytes."""
        if size:
            self._returned.append(size)
        if size >= _TRIM_BYTES:
            return_unused_memory()

    def add_evictor(self, evict: Callable[[], bool]) -> None:
        """Register a cache that evicts a value when memory is needed; ``evict`` returns False if there is none."""
        self._evictors.append(evict)

    def keep(self, image: MedicalImage, reservation: Reservation) -> None:
        """Keep an image's bytes reserved as long as the image is referenced."""
        self._kept[image] = reservation

    def reserve_for_work(self, image: MedicalImage) -> Reservation:
        """Reserve what segmenting a frame needs.

        The request that had the image read has reserved it already.

        Raises:
            ImageTooLargeError, MemoryBusyError: As for :meth:`reserve`.
        """
        kept, size = self._kept.get(image), working_bytes(image.frame_size)
        with self._lock:
            if kept is not None and kept.size >= image.frames.nbytes + size:
                return kept.split(size)
        return self.reserve(size)

    def check(self, size: int) -> None:
        """Raise :class:`ImageTooLargeError` for a size that exceeds the whole budget."""
        if size > self.total:
            raise ImageTooLargeError(
                f"the image needs {size / _MEBIBYTE:.0f} MiB of memory to be read and segmented; "
                f"at most {self.total / _MEBIBYTE:.0f} MiB are allowed"
            )

    def try_reserve(self, size: int) -> Reservation | None:
        """Reserve bytes if they are free and nobody is waiting; otherwise return None.

        Raises:
            ImageTooLargeError: If they exceed the budget.
        """
        self.check(size)
        return None if self._turn.locked() else self._reserve_now(size)

    def reserve(self, size: int) -> Reservation:
        """Reserve bytes; waits in turn until they are free.

        Raises:
            ImageTooLargeError: If they exceed the budget.
            MemoryBusyError: If they are not free within a minute, or within the current clock's time.
        """
        reserved = self.try_reserve(size)
        if reserved is not None:
            return reserved
        deadline = time.monotonic() + min(current_clock().remaining, _MAX_WAIT_SECONDS)
        with current_clock().stage("wait"), self._in_turn(size, deadline):
            while (reserved := self._reserve_now(size)) is None:
                self._wait(size, deadline)
            return reserved

    @contextmanager
    def _in_turn(self, size: int, deadline: float) -> Iterator[None]:
        while not self._turn.acquire(timeout=_POLL_SECONDS):
            self._wait(size, deadline)
        try:
            yield
        finally:
            self._turn.release()

    def _wait(self, size: int, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise MemoryBusyError(
                f"the image needs {size / _MEBIBYTE:.0f} MiB of memory, which other requests use; try again later"
            )
        current_clock().check()
        time.sleep(_POLL_SECONDS)

    def _reserve_now(self, size: int) -> Reservation | None:
        while self.taken + size > self.total:
            if not any(evict() for evict in self._evictors):
                return None
        with self._lock:
            if self._taken + size > self.total:
                return None
            self._taken += size
        return Reservation(self, size)


def working_bytes(size: tuple[int, int]) -> int:
    """Return the peak memory of segmenting a ``(rows, columns)`` frame: its window, RGB picture, masks, labels."""
    return size[0] * size[1] * _WORKING_BYTES_PER_PIXEL


def available_bytes() -> int:
    """Return the memory that this process can use: what the machine has left, or its control group's limit."""
    return min(int(psutil.virtual_memory().available), *_group_limits())


def _group_limits(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the limits of the control group and its parents, versions 2 (``memory.max``) and 1."""
    limits = [_UNLIMITED]
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            place = top / name.lstrip("/")
            for folder in (place, *place.parents):
                with suppress(OSError, ValueError):
                    limits.append(int((folder / file).read_text()))
                if folder == top:
                    break
    return limits


budget = MemoryBudget(int(available_bytes() * _SHARE))
"""The budget of this process; the server's option sets its ``total``."""


class CallMemory:
    """Memory reserved for one call.

    If a claim cannot be granted at once, the call is repeated with all of it reserved in advance.
    """

    def __init__(self, size: int) -> None:
        self._first = self._claimed = size
        self._reserved = budget.reserve(size)

    @property
    def is_granted(self) -> bool:
        """Whether everything that was claimed is reserved."""
        return self._claimed <= self._reserved.size

    def begin(self) -> None:
        """Reserve what the previous attempt claimed, if that was refused; waits without occupying a worker."""
        if not self.is_granted:
            self._reserved.release()
            self._reserved = budget.reserve(self._claimed)
        self._claimed = self._first

    def grant(self, more: int) -> bool:
        """Try to reserve this many more bytes; return whether everything that was claimed is reserved."""
        self._claimed += more
        missing = self._claimed - self._reserved.size
        if missing > 0 and self._claimed <= budget.total:
            added = budget.try_reserve(missing)
            if added is not None:
                self._reserved.absorb(added)
        return self.is_granted

    def keep_for(self, image: MedicalImage) -> None:
        """Keep an image's bytes, and those for working on it, reserved as long as it is referenced."""
        budget.keep(image, self._reserved.split(image.frames.nbytes + working_bytes(image.frame_size)))

    def close(self) -> None:
        """Release the memory after the call."""
        self._reserved.release()

"""How much memory all images in flight may take together, in bytes; whoever needs some reserves it first.

What is reserved is what a header says that reading takes: a decoder's buffers, the copies on the way, the image itself.
Images that are kept for the next click count, too, and are given up when somebody needs their place.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from lib.base.clock import current_clock
from lib.imaging.image import ImageTooLargeError, MedicalImage

_MEBIBYTE = 2**20
_SHARE = 0.5
"""Of the memory that there is: the models, the embeddings and the system have the rest."""
_WORKING_BYTES_A_PIXEL = 32
_LONGEST_WAIT = 60.0
_LOOK_EVERY = 0.02
_MUCH = 64 * _MEBIBYTE
"""What is given back to the system at once when it is released."""
_UNLIMITED = 2**60


class MemoryBusyError(RuntimeError):
    """The memory that an image needs is in use by other requests, and stayed so."""


class Reservation:
    """Bytes of a budget; given back by :meth:`release`, or when nobody holds it any more.

    Args:
        budget: Has them.
        size: How many.
    """

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back what is more than ``size`` bytes."""
        given, self.size = max(0, self.size - size), min(size, self.size)
        self._budget.give_back(given)

    def absorb(self, other: Reservation) -> None:
        """Take over another one's bytes."""
        self.size += other.size
        other.size = 0

    def split(self, size: int) -> Reservation:
        """Hand over so many bytes, or all, to a new one."""
        size = min(size, self.size)
        self.size -= size
        return Reservation(self._budget, size)

    def release(self) -> None:
        """Give back all of it."""
        self.shrink(0)

    def __del__(self) -> None:
        self.release()


class MemoryBudget:
    """Counts bytes. Thread-safe; giving back takes no lock, as it can happen wherever an object ends.

    Args:
        total: Bytes that may be reserved at the same time.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._returned: deque[int] = deque()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._spares: list[Callable[[], bool]] = []
        self._kept: WeakKeyDictionary[MedicalImage, Reservation] = WeakKeyDictionary()

    @property
    def taken(self) -> int:
        """Bytes that are reserved now."""
        with self._lock:
            while self._returned:
                self._taken -= self._returned.popleft()
            return self._taken

    def give_back(self, size: int) -> None:
        """Bytes that are free again."""
        if size:
            self._returned.append(size)
        if size >= _MUCH:
            _trim()

    def add_spare(self, give_up: Callable[[], bool]) -> None:
        """Name a cache that others' needs come before.

        Args:
            give_up: Gives up a value; False if there is none.
        """
        self._spares.append(give_up)

    def keep(self, image: MedicalImage, reservation: Reservation) -> None:
        """Have an image's own bytes stay reserved for as long as somebody holds it."""
        self._kept[image] = reservation

    def for_work_on(self, image: MedicalImage) -> Reservation:
        """Reserve what segmenting a frame takes; whoever had the image read has it already.

        Raises:
            ImageTooLargeError, MemoryBusyError: As :meth:`reserve`.
        """
        kept, size = self._kept.get(image), working_bytes(image.frame_size)
        with self._lock:
            if kept is not None and kept.size >= image.frames.nbytes + size:
                return kept.split(size)
        return self.reserve(size)

    def check(self, size: int) -> None:
        """Let only that pass which fits into the whole budget.

        Raises:
            ImageTooLargeError: If it never does.
        """
        if size > self.total:
            raise ImageTooLargeError(
                f"the image needs {size / _MEBIBYTE:.0f} MiB of memory to be read and segmented; "
                f"at most {self.total / _MEBIBYTE:.0f} MiB are allowed"
            )

    def try_reserve(self, size: int) -> Reservation | None:
        """Reserve bytes, if they are free and nobody waits for some; None if not.

        Raises:
            ImageTooLargeError: If they never are.
        """
        self.check(size)
        return None if self._turn.locked() else self._take(size)

    def reserve(self, size: int) -> Reservation:
        """Reserve bytes; waits until they are free, in turn.

        Raises:
            ImageTooLargeError: If they never are.
            MemoryBusyError: If others have them for a minute, or for as long as the current clock allows.
        """
        reserved = self.try_reserve(size)
        if reserved is not None:
            return reserved
        deadline = time.monotonic() + min(current_clock().remaining, _LONGEST_WAIT)
        with current_clock().stage("wait"), self._in_turn(size, deadline):
            while (reserved := self._take(size)) is None:
                self._wait(size, deadline)
            return reserved

    @contextmanager
    def _in_turn(self, size: int, deadline: float) -> Iterator[None]:
        while not self._turn.acquire(timeout=_LOOK_EVERY):
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
        time.sleep(_LOOK_EVERY)

    def _take(self, size: int) -> Reservation | None:
        while self.taken + size > self.total:
            if not any(give_up() for give_up in self._spares):
                return None
        with self._lock:
            if self._taken + size > self.total:
                return None
            self._taken += size
        return Reservation(self, size)


def working_bytes(size: tuple[int, int]) -> int:
    """What segmenting a frame of ``(rows, columns)`` takes at its peak: its window, the RGB picture, masks, labels."""
    return size[0] * size[1] * _WORKING_BYTES_A_PIXEL


def available_bytes() -> int:
    """Bytes of memory that this process can have: those that the machine has left, or its control group's limit."""
    return min(_left_on_machine(), *_limits_of_group())


def _left_on_machine() -> int:
    with suppress(OSError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits_of_group(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Of the process's control group and those above it, version 2 (``memory.max``) and 1."""
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


def default_total() -> int:
    """Half of the memory that there is."""
    return int(available_bytes() * _SHARE)


def _trim() -> None:
    """Have the C library give back to the system what it holds free."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


budget = MemoryBudget(default_total())
"""That of this process; the server's option sets its ``total``."""

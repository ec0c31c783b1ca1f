"""Times by which results are named and deleted, safe if the machine's clock stops, goes back or jumps ahead."""

import logging
import math
import re
import threading
import time
from collections.abc import Sequence
from decimal import Decimal

from lib.server.options import MAX_FRONTS

logger = logging.getLogger(__name__)

_MICROSECONDS = Decimal("0.000001")
_DAY_SECONDS = 86400.0


def parse_timestamp(text: str) -> Decimal:
    """Parse a timestamp as a client sent it, to microseconds: ``1732288000.12`` is ``1732288000.120000``.

    Raises:
        ValueError: If it is no plain positive decimal number.
    """
    if not re.fullmatch(r"\d{1,12}(\.\d{0,30})?", text, re.ASCII):
        raise ValueError("a timestamp is a decimal number of seconds, such as 1732288000.123456")
    return Decimal(text).quantize(_MICROSECONDS)


def print_timestamp(timestamp: Decimal) -> str:
    """Return a timestamp as text for clients, without trailing zeros."""
    return f"{timestamp.normalize():f}"


class TimestampSource:
    """Source of timestamps: Unix time in seconds, with microseconds, each larger than the one before.

    Concurrency: its lock guards the last timestamp.

    Args:
        after: The first one is larger than this.
        front: Number of the server among several, below :data:`MAX_FRONTS`: the last two digits of what it makes; None
            for the only one.
    """

    def __init__(self, after: Decimal, front: int | None = None) -> None:
        self._last = int(after * 10**6)
        self._step, self._rest = (1, 0) if front is None else (MAX_FRONTS, front)
        self._lock = threading.Lock()

    def next(self) -> Decimal:
        """Return the current time, or the next later one that is larger than the last and this server's."""
        with self._lock:
            earliest = max(time.time_ns() // 1000, self._last + 1)
            self._last = earliest + (self._rest - earliest) % self._step
            return Decimal(self._last).scaleb(-6)


class RetentionClock:
    """Clock that decides what is too old to store, unaffected by jumps of the machine's clock.

    Its time begins with the clock's time at the start and advances no faster than the machine's monotonic clock. A
    clock that is wrong at the start shows only in being far ahead of the newest stored result: if that makes more than
    half of the results too old at once, none is deleted for its age before a day has passed.

    Args:
        max_age_seconds: Older results are too old; 0 for no limit.
        kept: The times of the results stored at the start, in seconds.
    """

    def __init__(self, max_age_seconds: float, kept: Sequence[float]) -> None:
        self._max_age = max_age_seconds or math.inf
        self._started, self._monotonic = time.time(), _monotonic()
        self._has_warned = False
        ahead = self._started - max(kept, default=self._started)
        old = sum(self._started - made > self._max_age for made in kept)
        self._waits = ahead > _DAY_SECONDS and old > len(kept) / 2
        if self._waits:
            logger.warning(
                "The clock is %.1f days ahead of the newest result, so that %d of %d are too old. If it is right "
                "they are deleted after a day, and nothing need be done; if not, set it and start again",
                *(ahead / _DAY_SECONDS, old, len(kept)),
            )

    def oldest(self) -> float:
        """Return the time in seconds before which results are too old."""
        now, passed = time.time(), _monotonic() - self._monotonic
        ahead = now - self._started - passed
        if ahead > _DAY_SECONDS and not self._has_warned:
            self._has_warned = True
            days = ahead / _DAY_SECONDS
            logger.warning("The clock has jumped ahead by %.1f days: until the next start no result ages by that", days)
        if self._waits and passed < _DAY_SECONDS:
            return -math.inf
        return min(now, self._started + passed) - self._max_age


def _monotonic() -> float:
    """Return the seconds since the machine's start, including those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

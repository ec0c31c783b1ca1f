"""Time, as results are named and deleted by it: a machine's clock can stand, go back, and jump ahead."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

logger = logging.getLogger(__name__)

_MICROSECONDS = Decimal("0.000001")
_A_DAY = 86400.0


def parse_timestamp(text: str) -> Decimal:
    """A timestamp as a client printed it, to microseconds: ``1732288000.12`` is ``1732288000.120000``.

    Raises:
        ValueError: If it is no plain positive decimal number.
    """
    if not re.fullmatch(r"\d{1,12}(\.\d{0,30})?", text, re.ASCII):
        raise ValueError("a timestamp is a decimal number of seconds, such as 1732288000.123456")
    try:
        return Decimal(text).quantize(_MICROSECONDS)
    except InvalidOperation:
        raise ValueError("the timestamp has too many digits") from None


def print_timestamp(timestamp: Decimal) -> str:
    """As clients get it, without trailing zeros."""
    return f"{timestamp.normalize():f}"


class TimestampSource:
    """Makes timestamps: Unix time in seconds, with microseconds, each larger than the one before.

    Concurrency: its lock guards the last timestamp.

    Args:
        after: Larger than this one.
    """

    def __init__(self, after: Decimal) -> None:
        self._last = int(after * 10**6)
        self._lock = threading.Lock()

    def next(self) -> Decimal:
        """A new one: the time now, or the next after the last."""
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            return Decimal(self._last).scaleb(-6)


class RetentionClock:
    """Says what is too old to be kept, by a time that no jump of the machine's clock moves.

    While it runs, its time goes on from where the clock was at the start as the machine's monotonic clock does, and not
    faster. A clock that is wrong at the start shows in nothing but that it is far ahead of the newest thing that is
    kept: if more than half would go by it at once, nothing goes by its age before a day has passed.

    Args:
        max_age_seconds: What is older is too old; 0: nothing is.
        kept: The times of what is kept, in seconds, at the start.
    """

    def __init__(self, max_age_seconds: float, kept: Sequence[float]) -> None:
        self._max_age = max_age_seconds or math.inf
        self._started, self._monotonic = time.time(), _monotonic()
        self._told = False
        ahead = self._started - max(kept, default=self._started)
        old = sum(self._started - made > self._max_age for made in kept)
        self._waits = ahead > _A_DAY and old > len(kept) / 2
        if self._waits:
            logger.warning(
                "The clock is %.1f days ahead of the newest result, so that %d of %d are too old. If it is right "
                "they are deleted after a day, and nothing need be done; if not, set it and start again",
                *(ahead / _A_DAY, old, len(kept)),
            )

    def oldest(self) -> float:
        """The time in seconds before which what was made is not to be kept any longer."""
        now, passed = time.time(), _monotonic() - self._monotonic
        ahead = now - self._started - passed
        if ahead > _A_DAY and not self._told:
            self._told = True
            days = ahead / _A_DAY
            logger.warning("The clock has jumped ahead by %.1f days: until the next start no result ages by that", days)
        if self._waits and passed < _A_DAY:
            return -math.inf
        return min(now, self._started + passed) - self._max_age


def _monotonic() -> float:
    """Seconds since the machine's start, also those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

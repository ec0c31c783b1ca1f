"""Timestamps that name results: Unix time in seconds, with microseconds, unique and increasing."""

from __future__ import annotations

import re
import threading
import time
from decimal import Decimal, InvalidOperation

_MICROSECONDS = Decimal("0.000001")


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
    """Makes timestamps, each larger than the one before, also when the machine's clock stands or goes back.

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

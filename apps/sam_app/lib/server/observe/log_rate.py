"""Rate limit per line of code for log messages; those beyond it are counted."""

from __future__ import annotations

import logging
import threading
import time

LINES = 100
PERIOD_S = 60.0
"""A line of code may log ``LINES`` messages in ``PERIOD_S`` seconds."""
_UNLIMITED_LOGGER = "uvicorn.access"
"""uvicorn's access log, one line per request; the operator has switched it on."""
_MAX_SITES = 10_000


class RateLimit(logging.Filter):
    """Log filter that limits the rate; the first record after omitted ones has their number as ``left_out``."""

    def __init__(self) -> None:
        super().__init__()
        self._sites: dict[tuple[str, int], list[float]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if record.name == _UNLIMITED_LOGGER:
            return True
        now, site = time.monotonic(), (record.pathname, record.lineno)
        with self._lock:
            if len(self._sites) > _MAX_SITES:
                self._sites.clear()
            begun, lines = self._sites.setdefault(site, [now, 0])
            if now - begun >= PERIOD_S:
                if lines > LINES:
                    record.left_out = int(lines - LINES)
                begun, lines = now, 0
            self._sites[site] = [begun, lines + 1]
            return lines < LINES


def left_out(record: logging.LogRecord) -> str:
    """Return the text to append to a message after omitted ones; empty if none were omitted."""
    count = getattr(record, "left_out", 0)
    return f" ({count} more from this line of code were omitted before)" if count else ""

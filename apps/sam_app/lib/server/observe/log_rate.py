"""No line of code floods the log: what it writes too often is counted instead."""

from __future__ import annotations

import logging
import threading
import time

LINES = 100
PERIOD_S = 60.0
"""A line of code may write so many lines in so many seconds."""
_ASKED_FOR = "uvicorn.access"
"""A line for each request: there is none unless the operator wants them."""
_MOST_SITES = 10_000


class RateLimit(logging.Filter):
    """A handler's filter. The first line after those that were left out has their number as ``left_out``."""

    def __init__(self) -> None:
        super().__init__()
        self._sites: dict[tuple[str, int], list[float]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.name == _ASKED_FOR:
            return True
        now, site = time.monotonic(), (record.pathname, record.lineno)
        with self._lock:
            if len(self._sites) > _MOST_SITES:
                self._sites.clear()
            begun, lines = self._sites.setdefault(site, [now, 0])
            if now - begun >= PERIOD_S:
                if lines > LINES:
                    record.left_out = int(lines - LINES)
                begun, lines = now, 0
            self._sites[site] = [begun, lines + 1]
            return lines < LINES


def left_out(record: logging.LogRecord) -> str:
    """What to add to a line after which others were left out."""
    count = getattr(record, "left_out", 0)
    return f" ({count} more from this line of code were left out before)" if count else ""

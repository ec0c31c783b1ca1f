"""Supervision of the server's background threads: after an error, a thread's work is logged, counted and restarted.

A thread is identified by its name. :func:`restarts` is for metrics, :func:`recently_failed` for the health check.
"""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

RECENTLY_S = 600.0
"""Time after its last failure for which a thread counts as troubled."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0

_lock = threading.Lock()
_restarts: dict[str, int] = {}
_failed_at: dict[str, float] = {}


def start_watched(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread for some work, which is restarted if it fails, after pauses that grow with each failure.

    Args:
        name: Name of the thread; one of a few, as it is a label of a metric.
        work: The work; returns when there is nothing more to do.

    Returns:
        The started thread.
    """
    thread = threading.Thread(target=_run_with_restarts, args=(name, work), name=name, daemon=True)
    with _lock:
        _restarts.setdefault(name, 0)
    thread.start()
    return thread


def start_periodic(name: str, work: Callable[[], None], every_s: float) -> threading.Thread:
    """Start a watched thread that repeats some work periodically, for ever; see :func:`start_watched`.

    Args:
        name: Likewise.
        work: One run of the work.
        every_s: Seconds from the end of one run to the start of the next.
    """

    def repeat() -> None:
        while True:
            work()
            time.sleep(every_s)

    return start_watched(name, repeat)


def failed(name: str, error: BaseException) -> None:
    """Log and count a failure of a background thread that continues with its next piece of work."""
    logger.error("The background thread %s failed and goes on", name, exc_info=error)
    with _lock:
        _restarts[name] = _restarts.get(name, 0) + 1
        _failed_at[name] = time.monotonic()


def restarts() -> dict[str, int]:
    """Return how often each thread's work failed and was restarted, by thread name; also those with 0."""
    with _lock:
        return dict(_restarts)


def recently_failed() -> list[str]:
    """Return the names of the threads that failed within the last :data:`RECENTLY_S` seconds, sorted."""
    now = time.monotonic()
    with _lock:
        return sorted(name for name, at in _failed_at.items() if now - at < RECENTLY_S)


def _run_with_restarts(name: str, work: Callable[[], None]) -> None:
    pause = _PAUSE_S
    while True:
        started = time.monotonic()
        try:
            return work()
        except BaseException as error:  # panics of Rust libraries are not Exceptions
            failed(name, error)
        if time.monotonic() - started > _LONGEST_PAUSE_S:
            pause = _PAUSE_S
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)

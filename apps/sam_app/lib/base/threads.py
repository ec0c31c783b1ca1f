"""The server's background threads, watched: one that ends by an error is started again, counted, and told of.

A thread is known by its name. :func:`restarts` is for metrics, :func:`troubled` for whoever asks how the server is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

TROUBLED_S = 600.0
"""How long after its last failure a thread counts as troubled."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0

_lock = threading.Lock()
_restarts: dict[str, int] = {}
_failed_at: dict[str, float] = {}


def start_watched(name: str, work: Callable[[], None]) -> threading.Thread:
    """Do work in a thread of its own, and again if it fails, after a pause that grows while it keeps failing.

    Args:
        name: Of the thread; one of a few, as it is a label of a metric.
        work: Returns when there is nothing more to do.

    Returns:
        The thread, a daemon, started.
    """
    thread = threading.Thread(target=_keep_doing, args=(name, work), name=name, daemon=True)
    with _lock:
        _restarts.setdefault(name, 0)
    thread.start()
    return thread


def start_periodic(name: str, work: Callable[[], None], every_s: float) -> threading.Thread:
    """Do work now and then for ever, in a watched thread; as :func:`start_watched`.

    Args:
        name: Likewise.
        work: One time.
        every_s: Seconds from one end to the next beginning.
    """

    def for_ever() -> None:
        while True:
            work()
            time.sleep(every_s)

    return start_watched(name, for_ever)


def failed(name: str, error: BaseException) -> None:
    """Log and count that a background thread's work failed, and goes on with the next piece."""
    logger.error("The background thread %s failed and goes on", name, exc_info=error)
    with _lock:
        _restarts[name] = _restarts.get(name, 0) + 1
        _failed_at[name] = time.monotonic()


def restarts() -> dict[str, int]:
    """By thread: how often its work failed and was begun again; 0 for those that never did."""
    with _lock:
        return dict(_restarts)


def troubled() -> list[str]:
    """The threads that failed within the last :data:`TROUBLED_S` seconds, sorted."""
    now = time.monotonic()
    with _lock:
        return sorted(name for name, at in _failed_at.items() if now - at < TROUBLED_S)


def _keep_doing(name: str, work: Callable[[], None]) -> None:
    pause = _PAUSE_S
    while True:
        begun = time.monotonic()
        try:
            return work()
        except BaseException as error:  # panics of libraries in Rust are no Exceptions
            failed(name, error)
        if time.monotonic() - begun > _LONGEST_PAUSE_S:
            pause = _PAUSE_S
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)

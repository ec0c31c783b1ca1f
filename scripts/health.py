"""Waiting for a server of ours to be ready; as a program, whether one is: ``health.py http://127.0.0.1:8000``."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PAUSE_S = 0.3


def health(base_url: str) -> dict[str, object] | None:
    """The answer of ``/health_check/``, or None while there is none or it is not ok."""
    try:
        with _DIRECT.open(f"{base_url}/health_check/", timeout=5) as response:
            answer: dict[str, object] = json.load(response)
    except (OSError, ValueError):
        return None
    return answer if answer.get("status") == "ok" else None


def wait_until_healthy(base_url: str, goes_on: Callable[[], bool], seconds: float) -> dict[str, object] | None:
    """Asks ``/health_check/`` until it is ok.

    Args:
        base_url: The server, e.g. ``http://127.0.0.1:8000``.
        goes_on: Whether it still makes sense to wait.
        seconds: How long at most.

    Returns:
        The answer, or None if it did not come.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and goes_on():
        answer = health(base_url)
        if answer is not None:
            return answer
        time.sleep(_PAUSE_S)
    return None


if __name__ == "__main__":
    sys.exit(0 if health(sys.argv[1]) else 1)

"""The most recent runs of some long work in the background, of which one may run at a time: batches, trainings."""

from __future__ import annotations

import threading
import time
from typing import Any, Generic, Protocol, TypeVar

from fastapi import HTTPException

_MAX_RUNS = 20


class Run(Protocol):
    """One run.

    Attributes:
        end_ts: When it ended; None while it runs.
    """

    end_ts: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return its state for JSON, with MONAI Label's keys."""


R = TypeVar("R", bound=Run)


class RecentRuns(Generic[R]):
    """Table of runs; thread-safe.

    Args:
        work: What runs, in a word, for messages.
    """

    def __init__(self, work: str) -> None:
        self._work = work
        self._all: list[R] = []
        self._lock = threading.Lock()

    @property
    def all(self) -> list[R]:
        """The most recent ones, oldest first."""
        with self._lock:
            return list(self._all)

    def running(self) -> R | None:
        """Return the one that has not ended; None if there is none."""
        return next((run for run in self.all if run.end_ts is None), None)

    def add(self, run: R) -> bool:
        """Add a run; return False, and do not, if another one has not ended."""
        with self._lock:
            if any(other.end_ts is None for other in self._all):
                return False
            self._all[:] = [*self._all, run][-_MAX_RUNS:]
            return True

    def described(self, *, all: bool, check_if_running: bool) -> Any:
        """Return the state of the latest run for a client, or a list of all recent ones.

        Raises:
            HTTPException: 404 if there is none or, with ``check_if_running``, none running.
        """
        if check_if_running:
            running = self.running()
            found = [running] if running else []
        else:
            found = self.all
        if not found:
            state = "is running" if check_if_running else "has been started yet"
            raise HTTPException(404, f"no {self._work} {state}")
        described = [run.as_dict() for run in found]
        return described if all and not check_if_running else described[-1]


def now() -> str:
    """Return the time as MONAI Label writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S")

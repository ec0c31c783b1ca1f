"""Training from accepted labels, started by viewers and by itself: one at a time, in a process of its own.

The lock guards the list of trainings and is never held while anything is learned.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lib.base.threads import start_watched
from lib.learning.job import Job, Step, Taught
from lib.learning.process import TrainingEndedError, TrainingProcess
from lib.server.admission import BusyError

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "DONE", "ERROR", "STOPPED"]
_MAX_TRAININGS = 20


class TrainingRunningError(BusyError):
    """A training is running already, and only one may run at a time."""


@dataclass
class Training:
    """State of a training; ``status`` uses MONAI Label's words.

    Args:
        shown: The request as returned to clients.
    """

    shown: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = "RUNNING"
    start_ts: str = field(default_factory=lambda: _now())
    end_ts: str | None = None
    step: Step = field(default_factory=lambda: Step("", "reading", 0.0))
    taught: list[Taught] = field(default_factory=list)
    error: str = ""
    _begun: float = field(default_factory=time.monotonic)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON with MONAI Label's keys; ``details`` describes the progress in words."""
        return {
            "id": self.id,
            "status": self.status,
            "request": dict(self.shown),
            "start_ts": self.start_ts,
            **({"end_ts": self.end_ts} if self.end_ts else {}),
            "details": self._details(),
            "progress": round(self.step.part, 3),
            "stage": self.step.stage,
            **({"model": self.step.name} if self.step.name else {}),
            **({"loss": self.step.loss} if self.step.loss is not None else {}),
            **({"eta_seconds": self._eta()} if self.end_ts is None and self.step.part > 0.02 else {}),
            "results": [one.as_dict() for one in self.taught],
        }

    def _details(self) -> list[str]:
        lines = [str(one) for one in self.taught]
        if self.end_ts is None:
            lines.append(f"{self.step.stage} {self.step.name}, {self.step.part:.0%} done".replace("  ", " "))
        return [*lines, self.error] if self.error else lines

    def _eta(self) -> int:
        return round((time.monotonic() - self._begun) * (1 - self.step.part) / self.step.part)


class Trainings:
    """Runner of trainings.

    Args:
        note: Told when a training has ended, for the audit log.
    """

    def __init__(self, note: Callable[[Training], None] = lambda _: None) -> None:
        self._note = note
        self._all: list[Training] = []
        self._lock = threading.Lock()
        self._process: TrainingProcess | None = None

    @property
    def all(self) -> list[Training]:
        """The most recent trainings, oldest first."""
        with self._lock:
            return list(self._all)

    def running(self) -> Training | None:
        """Return the training that has not ended; None if there is none."""
        return next((one for one in self.all if one.end_ts is None), None)

    def start(self, job: Job, shown: Mapping[str, Any], *, wait: bool = False) -> Training:
        """Start a training and return it.

        Args:
            job: What to learn.
            shown: As in :class:`Training`.
            wait: Whether to return only when it has ended.

        Raises:
            TrainingRunningError: If one is running already.
        """
        training = Training(shown)
        with self._lock:
            if any(other.end_ts is None for other in self._all):
                raise TrainingRunningError("a training is running already; wait until it is done, or stop it")
            self._all[:] = [*self._all, training][-_MAX_TRAININGS:]
        thread = start_watched("training", lambda: self._run(training, job))
        if wait:
            thread.join()
        return training

    def stop(self) -> Training | None:
        """End the running training now; what it has taught stays. Returns it, or None if none is running."""
        training, process = self.running(), self._process
        if training is not None and process is not None:
            process.stop()
        return training

    def _run(self, training: Training, job: Job) -> None:
        def on_step(step: Step) -> None:
            training.step = step

        def on_taught(taught: Taught) -> None:
            training.taught = [*training.taught, taught]  # replaced, as other threads read it
            logger.info("Learned: %s", taught)

        try:
            self._process = process = TrainingProcess(job, on_step, on_taught)
            process.wait()
            training.step = Step("", "done", 1.0)
            training.status = "DONE"
        except TrainingEndedError as error:
            training.error = str(error)
            training.status = "STOPPED" if "stopped" in training.error else "ERROR"
        except OSError as error:
            training.error, training.status = f"the training cannot be started: {error.strerror}", "ERROR"
        finally:
            training.end_ts = _now()
            self._process = None
            if training.error:
                logger.warning("Training ended: %s", training.error)
            self._note(training)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")

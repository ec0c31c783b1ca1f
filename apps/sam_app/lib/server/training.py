"""Training from accepted labels, started by viewers and by itself: one at a time, in a process of its own.

The lock guards which process runs; it is never held while anything is learned.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from lib.base.files import atomic_write
from lib.base.request_record import RequestRecord, current_record
from lib.base.threads import start_watched
from lib.dicomweb.connection import DicomWebError
from lib.learning.job import Job, Step, Taught, TrainingRequestError
from lib.learning.process import TrainingEndedError, TrainingProcess
from lib.server.admission import BusyError
from lib.server.http.errors import failure_of
from lib.server.recent_runs import RecentRuns, now

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "DONE", "ERROR", "STOPPED"]


class Note(Protocol):
    """Notes what came of a training."""

    def __call__(self, record: RequestRecord, seconds: float, *, model: str | None, status: int) -> None:
        """See :meth:`~lib.server.observe.middleware.Observer.training_ended`."""


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
    start_ts: str = field(default_factory=now)
    end_ts: str | None = None
    step: Step = field(default_factory=lambda: Step("", "reading", 0.0))
    taught: list[Taught] = field(default_factory=list)
    error: str = ""
    is_to_stop: bool = False
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

    @property
    def seconds(self) -> float:
        """How long it has taken until now."""
        return time.monotonic() - self._begun

    def _eta(self) -> int:
        return round(self.seconds * (1 - self.step.part) / self.step.part)


class Trainings:
    """Runner of trainings.

    Args:
        note: Told what came of it, see :meth:`~lib.server.observe.middleware.Observer.training_ended`.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self.runs: RecentRuns[Training] = RecentRuns("training")
        self._lock = threading.Lock()
        self._process: TrainingProcess | None = None

    def start(self, make_job: Callable[[], Job], shown: Mapping[str, Any], *, wait: bool = False) -> Training:
        """Start a training and return it.

        Args:
            make_job: Returns what to learn; called in the training's thread, as it may fetch labels.
            shown: As in :class:`Training`.
            wait: Whether to return only when it has ended.

        Raises:
            TrainingRunningError: If one is running already.
        """
        training = Training(shown)
        record = replace(current_record() or RequestRecord())
        if not self.runs.add(training):
            raise TrainingRunningError("a training is running already; wait until it is done, or stop it")
        thread = start_watched("training", lambda: self._run(training, make_job, record))
        if wait:
            thread.join()
        return training

    def stop(self) -> Training | None:
        """End the running training now; what it has taught stays. Returns it, or None if none is running."""
        training = self.runs.running()
        if training is not None:
            with self._lock:
                training.is_to_stop = True
                if self._process is not None:
                    self._process.stop()
        return training

    def _run(self, training: Training, make_job: Callable[[], Job], record: RequestRecord) -> None:
        def on_step(step: Step) -> None:
            training.step = step

        def on_taught(taught: Taught) -> None:
            training.taught = [*training.taught, taught]  # replaced, as other threads read it
            logger.info("Learned: %s", taught)
            status = 422 if taught.title is None else 200 if taught.served else 409
            self._note(record, training.seconds, model=taught.title or taught.name, status=status)

        try:
            process = TrainingProcess(make_job(), on_step, on_taught)
            with self._lock:
                self._process = process
                if training.is_to_stop:  # before there was a process
                    process.stop()
            process.wait()
            training.step = Step("", "done", 1.0)
            training.status = "DONE"
        except TrainingEndedError as error:
            training.error = str(error)
            training.status = "STOPPED" if "stopped" in training.error else "ERROR"
        except Exception as error:
            failure = failure_of(error)
            training.error, training.status = failure.detail, "ERROR"
            if failure.status >= 500:
                logger.error("A training could not be started", exc_info=error)
        finally:
            with self._lock:
                self._process = None
                training.end_ts = now()
            if training.error:
                logger.warning("Training ended: %s", training.error)
                status = 499 if training.status == "STOPPED" else 500
                self._note(record, training.seconds, model=str(training.shown["model"]), status=status)


class TrainingByItself:
    """Starts a training whenever so many labels were accepted since the last one, while nobody segments.

    Args:
        after: So many.
        accepted: Returns how many accepted labels there are.
        start: Starts the training.
        is_idle: Returns whether nobody segments, and no training runs.
        state: File that keeps the count of the last training beyond a restart.
    """

    def __init__(
        self,
        after: int,
        *,
        accepted: Callable[[], int],
        start: Callable[[], None],
        is_idle: Callable[[], bool],
        state: Path,
    ) -> None:
        self._after, self._accepted, self._start, self._is_idle = after, accepted, start, is_idle
        self._state = state

    def look(self) -> None:
        """Start a training if it is time; called from time to time."""
        if not self._is_idle():
            return
        try:
            accepted = self._accepted()
        except DicomWebError as error:
            logger.info("Accepted labels cannot be counted now: %s", error)
            return
        last = self._last()
        if accepted < last:  # labels were removed
            self._keep(accepted)
        elif accepted - last >= self._after:
            try:
                self._start()
            except (TrainingRequestError, TrainingRunningError) as error:
                logger.info("No training was started by itself: %s", error)
                return
            self._keep(accepted)

    def _last(self) -> int:
        try:
            return int(json.loads(self._state.read_bytes())["accepted"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _keep(self, accepted: int) -> None:
        self._state.parent.mkdir(exist_ok=True)
        with atomic_write(self._state) as file:
            file.write(json.dumps({"accepted": accepted}).encode())

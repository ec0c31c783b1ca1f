"""Trainings in a process of their own: whatever becomes of one, the server goes on.

The process has the lowest priority there is (``SCHED_IDLE``), so that it computes only when nobody clicks, a bound on
its memory, and a time after which it is ended. It ends with the server. It gets its job on standard input, and says on
standard output, in lines of JSON, where it is.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib.learning.job import Job, Step, Taught, TrainingRequestError
from lib.sam.models.checkpoints import CheckpointError

MEMORY_BYTES = 8 << 30
"""Address space of the process beyond which it gets none."""

PATIENCE = 10
"""A training may take so many times its minutes, as it waits for everything else."""

GRACE_S = 600.0
"""Beyond the minutes of a job: reading, encoding and comparing."""

_APP_FOLDER = str(Path(__file__).resolve().parents[2])
_PROCESS = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from lib.learning.process import work
work()
"""
_PR_SET_PDEATHSIG = 1
_REFUSALS = (TrainingRequestError, CheckpointError)


class TrainingEndedError(RuntimeError):
    """The process of a training ended before the training did; the message says how."""


class TrainingProcess:
    """A running training.

    Args:
        job: What to learn.
        on_step: Told where it is.
        on_taught: Told what came of each name.
    """

    def __init__(self, job: Job, on_step: Callable[[Step], None], on_taught: Callable[[Taught], None]) -> None:
        self._on_step, self._on_taught = on_step, on_taught
        self._seconds = PATIENCE * 60 * job.minutes + GRACE_S
        self._stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, json.dumps([_APP_FOLDER, *sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        self._job = job

    def wait(self) -> None:
        """Wait until it has ended.

        Raises:
            TrainingEndedError: If it could not be done, was ended, or took too long; the message says why.
        """
        assert self._process.stdin and self._process.stdout
        timer = threading.Timer(self._seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        refusal, is_done = "", False
        try:
            with suppress(BrokenPipeError), self._process.stdin as channel:
                pickle.dump(self._job, channel)
            for line in self._process.stdout:
                message: dict[str, Any] = json.loads(line)
                kind = message.pop("kind")
                if kind == "step":
                    self._on_step(Step(**message))
                elif kind == "taught":
                    self._on_taught(Taught(**message))
                else:
                    refusal, is_done = message.get("reason", ""), kind == "done"
            status = self._process.wait()
        finally:
            timer.cancel()
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
        if self._stopped:
            raise TrainingEndedError("the training was stopped")
        if refusal:
            raise TrainingEndedError(refusal)
        if not is_done:
            raise TrainingEndedError(f"the training's process was ended by {_end(status)}; nothing else is affected")

    def stop(self) -> None:
        """End it now."""
        self._stopped = True
        self._process.kill()


def _end(status: int) -> str:
    with suppress(ValueError):
        if status < 0:
            return signal.Signals(-status).name
    return f"itself (exit status {status})"


def work() -> None:
    """Run the job that comes on standard input; the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is the server's
    with suppress(OSError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    from lib.learning.running import run  # with all that learning needs, which a server does not

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def say(kind: str, **facts: object) -> None:
        print(json.dumps({"kind": kind, **facts}), flush=True)

    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server itself
    try:
        for taught in run(job, lambda step: say("step", **asdict(step))):
            say("taught", **taught.as_dict())
    except _REFUSALS as error:
        say("refused", reason=str(error))
    except MemoryError:
        say("refused", reason="the training needs more memory than it may have")
    else:
        say("done")

"""Encoding by workers: other processes, perhaps on other machines, that run the same image encoder.

The embedding comes back once and is cached here like any other, so that only an image's first click needs a worker.
Who is next is decided by the queue of this process, see :mod:`lib.sam.device_queue`: it lets as many encodes run at
the same time as there are workers, so that none waits anywhere else.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lib.base.clock import PreemptedError
from lib.sam.runtimes.runtime import RuntimeUnavailableError, never

logger = logging.getLogger(__name__)

TRIES = 2
"""How often an image is given to a worker before the request fails: a worker can end while it encodes."""

_POLL_S = 0.02
"""Interval at which an encode checks whether it must stop, and whether there are workers, in seconds."""


class WorkersUnavailableError(RuntimeUnavailableError):
    """No worker can encode now; the message says why, and what to do."""


class WorkersRefusedError(WorkersUnavailableError):
    """Workers would encode otherwise than this server; waiting does not help."""


class WorkerDiedError(RuntimeError):
    """The worker ended before its result arrived."""


@dataclass(frozen=True, eq=False)
class EncodeOrder:
    """What a worker is asked for.

    Args:
        model: Name of the model.
        checkpoint_sha256: SHA-256 of its weights, in hexadecimal; a worker with others refuses.
        runtime: The key of the runtime, see :class:`~lib.sam.runtimes.runtime.Runtime`; likewise.
        image: ``(H, W, 3)`` uint8, as :meth:`lib.sam.predictor.Predictor.encode` takes it.
    """

    model: str
    checkpoint_sha256: str
    runtime: str
    image: np.ndarray


class PendingEncode(Protocol):
    """An encode that a worker was given."""

    def result(self, seconds: float) -> Sequence[np.ndarray] | None:
        """Wait at most some seconds for the embedding.

        Returns:
            Each level as ``(1, h, w, C)`` float32, the coarsest first; None if it has not arrived yet.

        Raises:
            WorkerDiedError: If the worker has ended.
            WorkersRefusedError: If it has another version of the app, or other weights.
        """

    def cancel(self) -> None:
        """Make the worker stop, as nobody needs the result any more."""


class Workers(ABC):
    """Processes that encode; for any number of threads.

    Args:
        wanted: How many there should be.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.demand: Callable[[], int] = lambda: 0
        """Returns how many encodes requests wait for here; told to other servers with the same workers."""
        self._counts: Counter[str] = Counter({"done": 0, "repeated": 0, "failed": 0})
        self._seconds = 0.0
        self._counting = threading.Lock()

    @property
    @abstractmethod
    def running(self) -> int:
        """The number of workers that can encode now."""

    @property
    def capacity(self) -> int:
        """How many images to give away at once: more than are running where more are started while images wait."""
        return self.running

    @property
    def elsewhere(self) -> int:
        """How many encodes requests wait for at other servers with the same workers."""
        return 0

    @abstractmethod
    def begin(self, order: EncodeOrder) -> PendingEncode:
        """Give an image to a worker, without waiting for it."""

    def encode(self, order: EncodeOrder, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """Have an image encoded; if the worker ends meanwhile, once more by another one.

        Args:
            order: The image, and what is to encode it.
            should_stop: Called every few milliseconds.

        Returns:
            ``(1, C, h, w)`` float32 in the layout ``channels_last``, followed by the finer levels if there are some.

        Raises:
            PreemptedError: If ``should_stop`` returned True before the end.
            WorkersUnavailableError: If there is no worker, :data:`TRIES` of them ended, or one refused.
        """
        began = time.monotonic()
        try:
            for _ in range(TRIES):
                try:
                    levels = self._encode_once(order, should_stop)
                except WorkerDiedError:
                    logger.warning("A worker ended while it encoded an image for %s", order.model)
                    self._count("repeated")
                else:
                    self._count("done", time.monotonic() - began)
                    return levels
            raise WorkersUnavailableError(
                f"{TRIES} workers ended while they encoded the image; others are being started, try again in a minute"
            )
        except WorkersUnavailableError:
            self._count("failed")
            raise

    def _encode_once(self, order: EncodeOrder, should_stop: Callable[[], bool]) -> tuple[torch.Tensor, ...]:
        self._require_one()
        pending = self.begin(order)
        while (levels := pending.result(_POLL_S)) is None:
            try:
                if should_stop():
                    raise PreemptedError("a click is waiting")
                self._require_one()
            except BaseException:
                pending.cancel()
                raise
        return tuple(torch.from_numpy(np.array(level)).permute(0, 3, 1, 2) for level in levels)

    def _require_one(self) -> None:
        if not self.running:
            raise WorkersUnavailableError(
                f"none of the {self.wanted} workers that encode images is there; they are started again by themselves, "
                "try again in a minute"
            )

    def _count(self, what: str, seconds: float = 0.0) -> None:
        with self._counting:
            self._counts[what] += 1
            self._seconds += seconds

    def stats(self) -> dict[str, float]:
        """Return ``wanted`` and ``running``, and since the start: encodes ``done``, ``repeated`` and ``failed``.

        And ``seconds``, the time of those done, with the way to the worker and back.
        """
        with self._counting:
            return {"wanted": self.wanted, "running": self.running, **self._counts, "seconds": self._seconds}


class RemoteEncoder:
    """The image encoder of one model, run by workers.

    Args:
        workers: Who runs it.
        model: Name of the model.
        checkpoint_sha256: SHA-256 of its weights, in hexadecimal.
        runtime: The key of the runtime that would encode here.
    """

    def __init__(self, workers: Workers, model: str, checkpoint_sha256: str, runtime: str) -> None:
        self._workers = workers
        self._order = model, checkpoint_sha256, runtime

    @property
    def count(self) -> int:
        """The number of workers that can encode now."""
        return self._workers.running

    def encode(self, image: np.ndarray, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """Encode an image ``(H, W, 3)`` uint8; called by as many threads as there are workers.

        Returns and raises as :meth:`Workers.encode`.
        """
        return self._workers.encode(EncodeOrder(*self._order, image), should_stop)

"""Workers that are no processes: what they answer is made by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from lib.sam.predictor import Predictor
from lib.sam.runtimes.remote import EncodeOrder, PendingEncode, Workers


class Pending:
    """Answers with levels, or with an error; or never, until it is cancelled."""

    def __init__(self, outcome: Sequence[np.ndarray] | Exception | None) -> None:
        self._outcome = outcome
        self.is_cancelled = False

    def result(self, seconds: float) -> Sequence[np.ndarray] | None:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if self._outcome is None:
            time.sleep(seconds)
        return self._outcome

    def cancel(self) -> None:
        self.is_cancelled = True


class MadeWorkers(Workers):
    """Workers whose answers the test says, one after the other."""

    def __init__(self, *outcomes: Sequence[np.ndarray] | Exception | None, running: int = 2) -> None:
        super().__init__(2)
        self.now = running
        self._outcomes = list(outcomes)
        self.begun: list[Pending] = []
        self.orders: list[EncodeOrder] = []

    @property
    def running(self) -> int:
        return self.now

    def begin(self, order: EncodeOrder) -> PendingEncode:
        self.orders.append(order)
        self.begun.append(Pending(self._outcomes.pop(0)))
        return self.begun[-1]


class EncodesHere(MadeWorkers):
    """Workers that encode in this process."""

    def __init__(self, local: Predictor) -> None:
        super().__init__()
        self._local = local

    def begin(self, order: EncodeOrder) -> PendingEncode:
        self.orders.append(order)
        levels = self._local.runtime.encode(self._local.model_input(order.image))
        return Pending([np.ascontiguousarray(level.permute(0, 2, 3, 1)) for level in levels])


class EncodesTogether(EncodesHere):
    """Two workers, neither of which answers before both have an image; ``alone`` first images are for one of them."""

    def __init__(self, local: Predictor, alone: int = 0) -> None:
        super().__init__(local)
        self._alone = alone
        self._together = threading.Barrier(2)
        self._encoding = threading.Lock()  # the networks of this process are for one thread

    def begin(self, order: EncodeOrder) -> PendingEncode:
        if len(self.orders) >= self._alone:
            self._together.wait(20)
        with self._encoding:
            return super().begin(order)

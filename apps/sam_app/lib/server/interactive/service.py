"""What all sessions of a protocol share: the models, the leases and the memory; and its numbers for ``/metrics``."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lib.base.threads import start_periodic
from lib.imaging.decoding.memory_budget import MemoryBudget
from lib.imaging.limits import Limits
from lib.sam.engine import Engine
from lib.sam.models.registry import ModelSpec, UnknownModelError
from lib.server.admission import Admission
from lib.server.interactive.leases import SWEEP_EVERY_S, Leases
from lib.server.interactive.session import MarkingSession

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=MarkingSession)


@dataclass(eq=False)
class MarkingService(Collector, Generic[S]):
    """Service behind the routes of a protocol; a subclass makes the leases.

    Args:
        engine: Has the models.
        admission: Counts the predictions among all segmentations; none is refused here.
        limits: Bounds on an image, and on what is marked on it.
        memory: What all sessions, of other protocols too, may hold together.
        seconds: After which a mask is told as far as it was found.
        ahead: Slices that are encoded before anything is marked.
    """

    NAME: ClassVar[str]
    """Of the protocol, in the names of its metrics."""
    CLIENTS: ClassVar[str]
    """Whose sessions they are."""

    engine: Engine
    _: KW_ONLY
    admission: Admission
    limits: Limits
    memory: MemoryBudget
    seconds: float
    ahead: int

    def __post_init__(self) -> None:
        self.leases = self.make_leases()
        self._parts = itertools.count()
        self._part_count = next(self._parts)

    def make_leases(self) -> Leases[S]:
        """Return an empty table of leases."""
        raise NotImplementedError

    def start(self) -> None:
        """Start to look for leases whose time is up."""
        start_periodic(f"{self.NAME}-leases", self.leases.sweep, SWEEP_EVERY_S)

    def is_usable(self, name: str) -> bool:
        """Return whether there is a model of this name, with its checkpoint."""
        return name in self.engine.specs and self.engine.state(name) != "no checkpoint"

    def spec(self, model: str | None) -> ModelSpec:
        """Return a model; the default one for None.

        Raises:
            UnknownModelError: If there is no such model, or it cannot be used.
        """
        name = self.engine.default_model if model is None else model
        if not self.is_usable(name):
            usable = filter(self.is_usable, self.engine.specs)
            raise UnknownModelError(f"there is no model {name!r}; the models are: {', '.join(usable)}")
        return self.engine.specs[name]

    def answered_in_part(self, model: str) -> None:
        """Log and count an answer that could not tell all, for want of time."""
        self._part_count = next(self._parts)
        logger.info("%s has found a part of the object in %g s; the next answer tells the rest", model, self.seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, for prometheus_client."""
        yield GaugeMetricFamily(f"sam_{self.NAME}_sessions", f"Sessions of {self.CLIENTS}.", self.leases.count)
        yield CounterMetricFamily(
            f"sam_{self.NAME}_parts", "Answers that told a mask in part, for want of time.", self._part_count
        )


def takes_lassos(spec: ModelSpec) -> bool:
    """Return whether a model can be asked by a lasso, which becomes prompts of all kinds."""
    return spec.takes_points and "box" in spec.prompts and "mask" in spec.prompts

"""What all sessions of nnInteractive's clients share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from lib.sam.models.registry import ModelSpec
from lib.server.http.errors import NoLeaseLeftError
from lib.server.interactive.leases import Leases
from lib.server.interactive.service import MarkingService, takes_lassos
from lib.server.nninteractive.messages import Capabilities
from lib.server.nninteractive.session import Session
from lib.version import VERSION

LIVENESS_S = 60.0
IDLE_S = 1800.0
_LEAST_BYTES = 16 << 20
"""Of memory that must be free for another session: that of a small image."""


@dataclass(eq=False)
class NnInteractiveService(MarkingService[Session]):
    """Service behind the routes.

    Args:
        max_sessions: Maximum number of sessions.
    """

    NAME: ClassVar[str] = "nninteractive"
    CLIENTS: ClassVar[str] = "nnInteractive's clients"

    _: KW_ONLY
    max_sessions: int

    def make_leases(self) -> Leases[Session]:
        """Return an empty table of leases."""
        return Leases(self.max_sessions, idle_s=IDLE_S, liveness_s=LIVENESS_S, option="nninteractive_sessions")

    def claim(self, owner: str, model: str) -> str:
        """Make a session and return the token of its lease.

        Args:
            owner: Who alone can use it.
            model: Its model.

        Raises:
            NoLeaseLeftError: If there are as many sessions as allowed, or they use all memory.
        """
        self.leases.sweep()
        if self.memory.try_reserve(min(_LEAST_BYTES, self.memory.total)) is None:
            raise NoLeaseLeftError("other sessions use all memory (nninteractive_max_mb); try again later")
        return self.leases.claim(
            owner,
            lambda token: Session(
                token,
                lambda: self.engine.predictor(model),
                memory=self.memory,
                limits=self.limits,
                ahead=self.ahead,
            ),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, for prometheus_client."""
        yield from super().collect()
        yield GaugeMetricFamily(
            "sam_nninteractive_bytes", "Bytes that these sessions and ITK-SNAP's hold.", self.memory.taken
        )


def capabilities_of(spec: ModelSpec) -> Capabilities:
    """Return what a model can be asked for; it depends on the prompts that it was trained with."""
    takes_boxes, takes_masks = "box" in spec.prompts, "mask" in spec.prompts
    return Capabilities(
        supported_interactions={
            "points": spec.takes_points,
            "bbox2d": takes_boxes,
            "bbox3d": takes_boxes,
            "scribble": spec.takes_points,
            "lasso": takes_lassos(spec),
        },
        supports_initial_label=takes_masks,
        supports_zero_shot_label_refinement=takes_masks,
        inference_session_version=VERSION,
        license=" ".join(f"{spec.license} ({spec.name} on SAM app {VERSION})".split()),
    )

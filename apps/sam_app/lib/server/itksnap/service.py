"""What all sessions of ITK-SNAP's users share.

ITK-SNAP begins no new session after a failure: to its user a session that is gone is a server that does not work. So
sessions last for half a day without use, and are ended earlier only if their memory is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from lib.sam.models.model_specs import VOLUME_SUFFIX
from lib.sam.models.registry import ModelSpec, UnknownModelError
from lib.server.interactive.leases import Leases
from lib.server.interactive.service import MarkingService, takes_lassos
from lib.server.itksnap.messages import Model
from lib.server.itksnap.session import Session

POLYGON_MODEL = "nnInteractive"
"""The id that ITK-SNAP's polygon tool asks for, whichever models there are."""
IDLE_S = 12 * 3600.0
MOST_SESSIONS = 100
"""Sessions at the same time. One without an image takes next to nothing; those with one are bounded by memory."""


@dataclass(eq=False)
class ItkSnapService(MarkingService[Session]):
    """Service behind the routes."""

    NAME: ClassVar[str] = "itksnap"
    CLIENTS: ClassVar[str] = "ITK-SNAP's users"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.memory.add_evictor(lambda: self._end_least_used(with_image=True))

    def make_leases(self) -> Leases[Session]:
        """Return an empty table of leases."""
        return Leases(MOST_SESSIONS, idle_s=IDLE_S)

    def models(self) -> list[Model]:
        """Return the models that can be asked, the default one first: each for volumes, and for one slice."""
        return [model for model, _ in self._models()]

    def start_session(self, owner: str, model_id: str | None) -> str:
        """Make a session and return its id; if there are as many as allowed, another ends.

        That is the one used least; one without an image, if there is one.

        Args:
            owner: Who alone can use it.
            model_id: Its model, by an id of :meth:`models`; None: the default one, for volumes.

        Raises:
            UnknownModelError: If there is no such model.
            NoLeaseLeftError: If all sessions are being worked on.
        """
        asked = self.engine.default_model + VOLUME_SUFFIX if model_id is None else model_id
        found = {model.id: (model, spec) for model, spec in self._models()}
        if asked not in found:
            raise UnknownModelError(f"there is no model {asked!r}; the models are: {', '.join(found)}")
        model, spec = found[asked]
        self.leases.sweep()
        if self.leases.count >= self.leases.limit:
            _ = self._end_least_used(with_image=False) or self._end_least_used(with_image=True)
        return self.leases.claim(
            owner,
            lambda token: Session(
                token,
                lambda: self.engine.predictor(spec.name),
                memory=self.memory,
                limits=self.limits,
                ahead=self.ahead,
                through_volume=model.dimensions == 3,
            ),
        )

    def _models(self) -> Iterator[tuple[Model, ModelSpec]]:
        default = self.engine.default_model
        for name in sorted(filter(self.is_usable, self.engine.specs), key=lambda name: name != default):
            spec = self.engine.specs[name]
            if not spec.takes_points:
                continue
            kinds: list[Literal["point", "scribble", "lasso"]] = ["point", "scribble"]
            if takes_lassos(spec):
                kinds.append("lasso")
            yield Model(id=name + VOLUME_SUFFIX, dimensions=3, interactions=kinds), spec
            yield Model(id=name, dimensions=2, interactions=kinds), spec
            if name == default and takes_lassos(spec):
                yield Model(id=POLYGON_MODEL, dimensions=3, interactions=kinds), spec

    def _end_least_used(self, *, with_image: bool) -> bool:
        """End the session that was not used for longest, of those with or without an image that nobody waits for."""
        return self.leases.end_least_used(
            lambda session: session.turns.is_idle and (session.image_sha256 is not None) == with_image
        )

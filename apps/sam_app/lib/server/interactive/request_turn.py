"""A request's turn at its session, with what is counted and recorded of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lib.base.clock import current_clock
from lib.base.request_record import note
from lib.server.interactive.service import MarkingService
from lib.server.interactive.session import MarkingSession

S = TypeVar("S", bound=MarkingSession)


@dataclass(eq=False)
class RequestTurn(Generic[S]):
    """A request's turn at its session; held by :func:`held_turn`.

    Args:
        service: Has the session.
        session: The session.
        asked: When the request was complete, in monotonic seconds.
    """

    service: MarkingService[Any]
    session: S
    asked: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time for a mask, from when the request was complete."""
        return max(0.0, self.asked + self.service.seconds - time.monotonic())

    @contextmanager
    def noted(self) -> Iterator[S]:
        """Count and record what is done with the session within the ``with`` block."""
        admission = self.service.admission
        admission.enter(unconditionally=True)
        try:
            yield self.session
        finally:
            admission.leave()
            note(prompts=self.session.counts(), image_sha256=self.session.image_sha256)

    @contextmanager
    def predicting(self) -> Iterator[S]:
        """Likewise for a mask, with the model as it is served now; an answer that tells a part is counted."""
        self.note_model()
        with self.noted() as session:
            yield session
        if session.is_behind:
            self.service.answered_in_part(session.predictor().title)

    def note_model(self) -> None:
        """Record the model as it is served now."""
        predictor = self.session.predictor()
        note(model=predictor.title, checkpoint_sha256=predictor.checkpoint_sha256)


@asynccontextmanager
async def held_turn(service: MarkingService[Any], session: S) -> AsyncIterator[RequestTurn[S]]:
    """Hold the session's turn within the ``async with`` block, until the response is sent; then do what was left."""
    turn = RequestTurn(service, session)
    async with session.turns.next():
        is_lost = True
        try:
            yield turn
            is_lost = current_clock().is_cancelled
        finally:
            session.answer_sent(is_lost=is_lost)
        if session.is_behind:
            session.turns.go_on(session.go_on)

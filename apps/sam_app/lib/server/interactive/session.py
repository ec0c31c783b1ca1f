"""One client's session: its image, and the object that its user marks on it.

Concurrency: a session is used by one request at a time, see :mod:`.turns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Generic, TypeVar

from lib.imaging.decoding.memory_budget import MemoryBudget
from lib.imaging.limits import Limits
from lib.sam.predictor import Predictor
from lib.server.interactive.marked_image import MarkedImage
from lib.server.interactive.turns import Turns

M = TypeVar("M", bound=MarkedImage)


@dataclass(eq=False)
class MarkingSession(Generic[M]):
    """One client's session.

    Args:
        token: By which the client names it.
        predictor: Returns the model as it is served now.
        memory: What all sessions may hold together.
        limits: Bounds on an image, and on what is marked on it.
        ahead: Slices that are encoded before anything is marked.
        through_volume: Whether objects are followed through the volume, or segmented where they are marked alone.
    """

    token: str
    predictor: Callable[[], Predictor]
    _: KW_ONLY
    memory: MemoryBudget
    limits: Limits
    ahead: int
    through_volume: bool = True

    def __post_init__(self) -> None:
        self.turns = Turns()
        self._marked: M | None = None

    @property
    def image_sha256(self) -> str | None:
        """SHA-256 of the image's type, shape and values, in hexadecimal; None without an image."""
        return self._marked.sha256 if self._marked else None

    @property
    def is_behind(self) -> bool:
        """Whether the last answer could not tell all that is to be found, for want of time."""
        return self._marked is not None and self._marked.is_behind

    def counts(self) -> dict[str, int]:
        """Return the numbers of prompts by kind."""
        return self._marked.annotation.counts() if self._marked else {}

    def end(self) -> None:
        """Stop working for this session; its memory is free as soon as no request uses it."""
        self.turns.end()

    def go_on(self) -> None:
        """Find what the last answer could not tell, for the next one to tell it."""
        if self._marked is not None:
            self._marked.annotation.update(self.predictor(), through_volume=self.through_volume)

    def answer_sent(self, *, is_lost: bool) -> None:
        """Note that the last answer was sent, or that it was lost, as the client has left before."""

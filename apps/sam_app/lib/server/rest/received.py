"""A REST request as it lies in a pending result's folder, also across a restart of the server."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from lib.server.rest.manifest import InputFile
from lib.transforms.sam_input import SAMPrompts


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class Origin(_Stored):
    """Which HTTP request it was, and from which address it came."""

    request_id: str
    client: str | None = None


class EarlierMasks(_Stored):
    """Of the result to go on from, whose logits lie in the folder, too."""

    effective: SAMPrompts
    checkpoint_sha256: str
    candidate: int


class ReceivedRequest(_Stored):
    """What was asked for and by whom.

    Args:
        user: Who asked.
        created: When, in ISO 8601.
        request: What they asked, as JSON.
        input: The image.
        effective: What to segment: with what still holds of the result that is refined, and with the model's own name.
        earlier: The masks to go on from.
        origin: Of a queued one.
    """

    user: str
    created: str
    request: dict[str, Any]
    input: InputFile
    effective: SAMPrompts
    earlier: EarlierMasks | None = None
    origin: Origin | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.model_dump(mode="json", exclude_none=True)

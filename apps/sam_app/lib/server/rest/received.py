"""A REST request as stored in a pending result's folder, where it survives a restart of the server."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from lib.server.rest.manifest import InputFile
from lib.transforms.sam_input import SAMPrompts


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class Origin(_Stored):
    """Id and client address of the HTTP request."""

    request_id: str
    client: str | None = None


class EarlierMasks(_Stored):
    """What is needed of the result to refine; its logits are in the folder, too."""

    effective: SAMPrompts
    checkpoint_sha256: str
    candidate: int


class ReceivedRequest(_Stored):
    """What was requested and by whom.

    Args:
        user: Who requested it.
        created: When, in ISO 8601.
        request: The request as JSON.
        input: The image.
        effective: What to segment: includes what is taken from the result that is refined, and the model's own name.
        earlier: The masks to refine.
        origin: Of a queued request.
    """

    user: str
    created: str
    request: dict[str, Any]
    input: InputFile
    effective: SAMPrompts
    earlier: EarlierMasks | None = None
    origin: Origin | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return self.model_dump(mode="json", exclude_none=True)

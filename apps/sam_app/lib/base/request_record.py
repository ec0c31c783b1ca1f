"""What is known of the request that is being worked on: the audit log's line and the metrics are made of it.

Whoever learns a fact notes it; the observing middleware, which started the record, reads it when the answer has been
sent. Names of patients, of files and of images never go into it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields


@dataclass
class RequestRecord:
    """Facts of one request, or of one queued segmentation; None is unknown.

    Args:
        request_id: Random; the answer's header ``X-Request-ID``, in the audit log and before the log's messages.
        client: The address that it came from.
        route: The template of the route that answers it.
        user: Who asked, once that is known.
        timestamp: The result's name.
        image_sha256: Of the image file's bytes, in hexadecimal; of a series: of its files' digests.
        model: The model that was used.
        checkpoint_sha256: Of its checkpoint.
        prompts: Counts by kind: ``rectangles``, ``positive_points``, ``negative_points``.
        reason: Why it failed: the name of the error's class. Its message can quote the client, so it is not kept.
    """

    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    client: str | None = None
    route: str | None = None
    user: str | None = None
    timestamp: str | None = None
    image_sha256: str | None = None
    model: str | None = None
    checkpoint_sha256: str | None = None
    prompts: dict[str, int] = field(default_factory=dict)
    reason: str | None = None


_NAMES = frozenset(item.name for item in fields(RequestRecord))
_current: ContextVar[RequestRecord | None] = ContextVar("record", default=None)


def current_record() -> RequestRecord | None:
    """The record of the request that this thread or task works on; None outside of any."""
    return _current.get()


@contextmanager
def use_record(record: RequestRecord) -> Iterator[RequestRecord]:
    """Make it the current one within the ``with`` block."""
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def note(**facts: object) -> None:
    """Write facts into the current record; without one (no request is being worked on) they are not kept.

    Raises:
        TypeError: For a fact that a record does not have.
    """
    unknown = facts.keys() - _NAMES
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
    record = _current.get()
    if record is not None:
        for name, value in facts.items():
            setattr(record, name, value)

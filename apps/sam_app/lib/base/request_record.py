"""Record of facts about the current request, from which the audit log's line and the metrics are made.

Code that learns a fact adds it with :func:`note`; the observing middleware, which started the record, reads it after
the response was sent. Names of patients, files and images must never be in it.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields


@dataclass
class RequestRecord:
    """Facts about one request, or one queued segmentation; None: unknown.

    Args:
        request_id: Random; also in the response's header ``X-Request-ID``, the audit log and the log's messages.
        client: The client's address.
        route: The template of the request's route.
        user: The user's name, once known.
        timestamp: The result's name.
        image_sha256: SHA-256 of the image file's bytes, in hexadecimal; for a series: of its files' digests.
        model: The model that was used.
        checkpoint_sha256: SHA-256 of its checkpoint.
        prompts: Counts by kind: ``rectangles``, ``positive_points``, ``negative_points``; others if there are some.
        reason: Name of the error's class if it failed. The message can quote the client, so it is not stored.
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
    """Return the record of the request that this thread or task works on; None outside of requests."""
    return _current.get()


@contextmanager
def use_record(record: RequestRecord) -> Iterator[RequestRecord]:
    """Make a record the current one within the ``with`` block."""
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def note(**facts: object) -> None:
    """Add facts to the current record; outside of requests they are ignored.

    Raises:
        TypeError: For a name that is not a field of the record.
    """
    unknown = facts.keys() - _NAMES
    if unknown:
        raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
    record = _current.get()
    if record is not None:
        for name, value in facts.items():
            setattr(record, name, value)

"""The audit log: who did what to which image or result, when and how it ended. One JSON object a line.

It holds no patient's name, no file's name, no path and no image's id, which can be a file's name: routes are written as
templates, images as SHA-256 sums. Its format is documented in :func:`audit_entry`; ``scripts/audit`` reads it.

What nobody known did (refused, or to one of the paths that need no login) is a file of its own beside it, of so many
lines a minute: else anyone could have the entries of what users did put aside, and at last deleted.

If a line cannot be written while the server runs, it goes into the server's log instead, as an error, and is counted in
``sam_audit_lines_lost_total``: work on a patient does not stop because a disk is full.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from monailabel.config import settings

from lib.base.clock import TimeLimitError
from lib.base.request_record import RequestRecord
from lib.server.observe.in_flight import InFlight

logger = logging.getLogger(__name__)

KEPT_FILES = 20
"""Files that are kept beside the current one, ``audit.jsonl.1`` the newest of them."""

AUDITED_ROUTES = (
    "/segment_input_image/",
    "/get_segmented_image/",
    "/get_dicom_image/",
    "/infer/",
    "/batch/",
    "/datastore/",
    "/session/",
    "/activelearning/",
    "/proxy/",
    "/scoring/",
    "/train/",
    "/model/",
    "/logs/",
    "/auth/",
)
"""How the templates of those routes begin that touch images, labels, results, models, logs or logins."""

_DENIED = (401, 403, 421)
_OF_NOBODY_A_MINUTE = 600

Outcome = Literal["ok", "refused", "failed", "disconnected", "timeout"]


class AuditLogError(OSError):
    """The audit log cannot be written where it should be."""


def is_audited(route: str, status: int | None) -> bool:
    """Whether a request belongs into the audit log: by its route's template, or because access was denied."""
    return route.startswith(AUDITED_ROUTES) or status in _DENIED


def is_of_nobody(entry: dict[str, Any]) -> bool:
    """Whether an entry tells of somebody unknown who was denied, or did not log in where no login is needed."""
    if entry.get("user") is not None or entry.get("kind") == "job":
        return False
    logged_in = entry.get("method") == "POST" and entry.get("status") == 200
    return entry.get("status") in _DENIED or (settings.MONAI_LABEL_AUTH_ENABLE and not logged_in)


def nobodys_file(path: Path) -> Path:
    """Where the entries of nobody known are, beside an audit log: ``audit.nobody.jsonl``."""
    return path.with_name(f"{path.stem}.nobody{path.suffix}")


def outcome_of(status: int | None, reason: str | None = None) -> Outcome:
    """What became of a request; without a status the client went before there was one.

    Args:
        status: As for :func:`audit_entry`.
        reason: The name of the error's class.
    """
    if reason == TimeLimitError.__name__:
        return "timeout"
    if status is None:
        return "disconnected"
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


def audit_entry(
    record: RequestRecord,
    seconds: float,
    *,
    kind: Literal["request", "job"],
    method: str | None,
    status: int | None,
    outcome: Outcome,
) -> dict[str, Any]:
    """One entry; every key is always there, null where nothing is known.

    Args:
        record: What is known of the request.
        seconds: How long it took.
        kind: ``request``: a request that was answered. ``job``: a queued segmentation that was worked on.
        method: HTTP's; None of a job.
        status: HTTP's; of a job the one that asking for its result answers; None if there was no answer.
        outcome: ``ok``, ``refused`` (the client's fault), ``failed`` (the server's), ``timeout`` (the work took longer
            than it may) or ``disconnected`` (the client went before it had the whole answer; where that ended the work
            the status is 499, which nobody was sent).

    Returns:
        ``time``, now, in UTC with milliseconds; ``request_id``; ``kind``; ``user``; ``client``, its address;
        ``method``; ``route``; ``status``; ``outcome``; ``reason``, the name of the error's class; ``latency_ms``;
        ``timestamp`` of the result; ``image_sha256``; ``model``; ``checkpoint_sha256``; ``prompts``, counted by kind.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": record.request_id,
        "kind": kind,
        "user": record.user,
        "client": record.client,
        "method": method,
        "route": record.route,
        "status": status,
        "outcome": outcome,
        "reason": record.reason,
        "latency_ms": round(seconds * 1000, 1),
        "timestamp": record.timestamp,
        "image_sha256": record.image_sha256,
        "model": record.model,
        "checkpoint_sha256": record.checkpoint_sha256,
        "prompts": record.prompts,
    }


def entry_if_killed(record: RequestRecord, *, method: str) -> dict[str, Any]:
    """The entry of a request that has come in, for the next server to write if this one ends before it is done.

    Returns:
        As :func:`audit_entry`: ``time`` is when the request had come in, ``reason`` ``ServerEnded``.
    """
    entry = audit_entry(record, 0, kind="request", method=method, status=None, outcome="failed")
    return {**entry, "reason": "ServerEnded", "latency_ms": None}


class _AuditHandler(RotatingFileHandler):
    """Rotates by size; its files are for the server's user alone. Raises what goes wrong."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        raise  # called by emit() in its except clause


class AuditLog:
    """Appends entries to a file, those of nobody known to another. Thread-safe; one server a file.

    Args:
        path: The file; it and its folder are made if they are not there, for the server's user alone.
        max_bytes: A file that would grow larger is put aside and a new one begun; 0 never does.

    Raises:
        AuditLogError: If a file cannot be opened for writing.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handler = _AuditHandler(path, maxBytes=max_bytes, backupCount=KEPT_FILES)
            os.chmod(path, 0o600)
            self.in_flight = InFlight(path.with_name(f"{path.name}.in-flight"))
        except OSError as error:
            raise AuditLogError(f"the audit log {path} cannot be written: {error.strerror}") from error
        self._of_nobody = _AuditHandler(nobodys_file(path), maxBytes=max_bytes, backupCount=KEPT_FILES, delay=True)
        self._begun = -math.inf
        self._lines = 0
        self._lock = threading.Lock()
        self.lost = 0
        """Entries that could not be written."""
        for entry in self.in_flight.left:
            self.write(entry)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry, as one line in one write; what cannot be written goes into the server's log."""
        handler = self._handler
        if is_of_nobody(entry):
            handler = self._of_nobody
            if not self._has_room():
                return
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
        try:
            handler.handle(logging.makeLogRecord({"msg": line}))
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self.lost += 1
            logger.error("The audit log could not be written (%s): %s", type(error).__name__, line)

    def _has_room(self) -> bool:
        """Whether one more entry of nobody known is written in this minute."""
        now = time.monotonic()
        with self._lock:
            if now - self._begun >= 60:
                if self._lines > _OF_NOBODY_A_MINUTE:
                    left_out = self._lines - _OF_NOBODY_A_MINUTE
                    logger.warning("%d requests that were refused are not in the audit log: too many", left_out)
                self._begun, self._lines = now, 0
            self._lines += 1
            return self._lines <= _OF_NOBODY_A_MINUTE

    def close(self) -> None:
        """Close the files."""
        self._handler.close()
        self._of_nobody.close()
        self.in_flight.close()

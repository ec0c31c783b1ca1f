"""The audit log: who did what to which image or result, when, and how it ended. One JSON object per line.

It contains no patient's name, no file's name, no path and no image's id, which can be a file's name: routes are written
as templates, images as SHA-256 sums. Its format is documented in :func:`audit_entry`; ``scripts/audit`` reads it.

Requests without a known user (refused, or to a path that needs no login) go to a separate file, with a limited number
of lines per minute: otherwise anyone could force the rotation, and at last the deletion, of the users' entries.

A line that cannot be written while the server runs is written to the server's log as an error, and counted in
``sam_audit_lines_lost_total``: work on a patient does not stop because a disk is full.
"""

import itertools
import json
import logging
import math
import os
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from monailabel.config import settings

from lib.base.clock import TimeLimitError
from lib.base.request_record import RequestRecord

logger = logging.getLogger(__name__)

KEPT_FILES = 20
"""Number of rotated files in addition to the current one; the newest is ``audit.jsonl.1``."""

AUDITED_ROUTES = (
    "/segment_input_image/",
    "/images/",
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
    "/versions/",
    "/model/",
    "/logs/",
    "/auth/",
    "/nninteractive/",
    "/itksnap/",
)
"""Prefixes of the templates of audited routes: those for images, labels, results, models, logs or logins."""
UNAUDITED_ENDS = ("/healthz", "/heartbeat", "/lease_status", "/itksnap/status", "/slices/{plane}/{index}")
"""Ends of templates of routes that clients call again and again: about no image, or one whose opening is in the log."""

_DENIED = (401, 403, 421)
_MAX_UNAUTHENTICATED_PER_MINUTE = 600

Outcome = Literal["ok", "refused", "failed", "disconnected", "timeout"]


class AuditLogError(OSError):
    """The audit log cannot be written at its path."""


def is_audited(route: str, status: int | None) -> bool:
    """Return whether a request belongs in the audit log: by its route's template, or because access was denied."""
    is_about_images = route.startswith(AUDITED_ROUTES) and not route.endswith(UNAUDITED_ENDS)
    return is_about_images or status in _DENIED


def has_unknown_user(entry: dict[str, Any]) -> bool:
    """Return whether an entry is of an unknown user, who was denied access or used a path that needs no login."""
    if entry.get("user") is not None or entry.get("kind") == "job":
        return False
    logged_in = entry.get("method") == "POST" and entry.get("status") == 200
    return entry.get("status") in _DENIED or (settings.MONAI_LABEL_AUTH_ENABLE and not logged_in)


def unknown_users_file(path: Path) -> Path:
    """Return the path of the file for entries without a known user, next to an audit log: ``audit.nobody.jsonl``."""
    return path.with_name(f"{path.stem}.nobody{path.suffix}")


def outcome_of(status: int | None, reason: str | None = None) -> Outcome:
    """Return the outcome of a request.

    Args:
        status: As for :func:`audit_entry`; None: the client disconnected before there was a status.
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
    """Return one entry; it always has all keys, with null for unknown values.

    Args:
        record: The facts recorded about the request.
        seconds: How long it took.
        kind: ``request``: an HTTP request. ``job``: a queued segmentation, or what came of a training.
        method: The HTTP method; None for a job.
        status: The HTTP status; for a job, the status of a request for its result; None if there was no response.
        outcome: ``ok``, ``refused`` (the client's fault), ``failed`` (the server's), ``timeout`` (the work exceeded its
            time limit) or ``disconnected`` (the client disconnected before it had the whole response; if that ended the
            work, the status is 499, which was not sent to anyone).

    Returns:
        ``time``, now, in UTC with milliseconds; ``request_id``; ``kind``; ``user``; ``client``, its address;
        ``method``; ``route``; ``status``; ``outcome``; ``reason``, the name of the error's class; ``latency_ms``;
        ``timestamp`` of the result; ``image_sha256``; ``model``; ``checkpoint_sha256``; ``prompts``, counted by kind.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": kind,
        "method": method,
        "status": status,
        "outcome": outcome,
        "latency_ms": round(seconds * 1000, 1),
        **asdict(record),
    }


def entry_if_killed(record: RequestRecord, *, method: str) -> dict[str, Any]:
    """Return the entry that the next server writes for a request if this one ends before the request is done.

    ``time`` is when the request arrived, ``reason`` is ``ServerEnded``.
    """
    entry = audit_entry(record, 0, kind="request", method=method, status=None, outcome="failed")
    return {**entry, "reason": "ServerEnded", "latency_ms": None}


_SLOT_BYTES = 1024
_EMPTY = b" " * (_SLOT_BYTES - 1) + b"\n"


class InFlight:
    """File of one server's requests in progress, so that they are known after the process was killed.

    A request occupies a slot of the file while it is in progress. The slot is written without ``fsync``: it only has to
    survive the end of the process. What the file contains when a server starts was in progress when the last one ended.
    Not thread-safe: used only on the event loop.

    Args:
        path: Path of the file; created if need be, with access only for the server's user.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.left = _entries(path.read_bytes())
        """Entries of the requests that were in progress when an earlier server ended."""
        os.ftruncate(self._file, 0)
        self._free: list[int] = []
        self._new_slots = itertools.count()

    def begin(self, entry: dict[str, Any]) -> int:
        """Write an entry for a request in progress, and return its slot for :meth:`end`."""
        line = json.dumps(entry, separators=(",", ":")).encode()
        slot = self._free.pop() if self._free else next(self._new_slots)
        if len(line) < _SLOT_BYTES:
            self._write(slot, line.ljust(_SLOT_BYTES - 1) + b"\n")
        return slot

    def end(self, slot: int) -> None:
        """Remove the entry of a request that is done."""
        self._write(slot, _EMPTY)
        self._free.append(slot)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, slot: int, content: bytes) -> None:
        try:
            os.pwrite(self._file, content, slot * _SLOT_BYTES)
        except OSError as error:  # work on a patient does not stop because a disk is full
            logger.error("The file of the requests in progress could not be written: %s", error.strerror)


def _entries(content: bytes) -> list[dict[str, Any]]:
    """Return the complete entries of the file."""
    entries = []
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


class _AuditHandler(RotatingFileHandler):
    """Log handler that rotates by size, makes files private to the server's user, and raises its errors."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600))

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # called by emit() in its except clause


class AuditLog:
    """Writer of the audit log, with a second file for entries without a known user. Thread-safe; one server per file.

    Args:
        path: The file; it and its folder are created if need be, with access only for the server's user.
        max_bytes: Size at which a file is rotated; 0: never.

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
        self._unknown_users = _AuditHandler(
            unknown_users_file(path), maxBytes=max_bytes, backupCount=KEPT_FILES, delay=True
        )
        self._minute_began = -math.inf
        self._lines = 0
        self._lock = threading.Lock()
        self.lost = 0
        """Entries that could not be written."""
        for entry in self.in_flight.left:
            self.write(entry)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry, as one line in one write; if that fails, write it to the server's log."""
        handler = self._handler
        if has_unknown_user(entry):
            handler = self._unknown_users
            if not self._is_within_rate():
                return
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
        try:
            handler.handle(logging.makeLogRecord({"msg": line}))
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self.lost += 1
            logger.error("The audit log could not be written (%s): %s", type(error).__name__, line)

    def _is_within_rate(self) -> bool:
        """Count an entry without a known user, and return whether this minute's limit allows to write it."""
        now = time.monotonic()
        with self._lock:
            if now - self._minute_began >= 60:
                if self._lines > _MAX_UNAUTHENTICATED_PER_MINUTE:
                    left_out = self._lines - _MAX_UNAUTHENTICATED_PER_MINUTE
                    logger.warning("%d refused requests are not in the audit log: too many in a minute", left_out)
                self._minute_began, self._lines = now, 0
            self._lines += 1
            return self._lines <= _MAX_UNAUTHENTICATED_PER_MINUTE

    def close(self) -> None:
        """Close the files."""
        self._handler.close()
        self._unknown_users.close()
        self.in_flight.close()

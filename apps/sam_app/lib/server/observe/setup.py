"""Puts a FastAPI app under observation."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp

from lib.server.http.security_headers import SecurityHeaders
from lib.server.observe.audit import AuditLog
from lib.server.observe.metrics import Metrics
from lib.server.observe.middleware import Observer, ObservingMiddleware
from lib.server.observe.template import RouteTemplates


def observe(app: FastAPI, *, audit_log: Path, audit_max_bytes: int, max_seconds: float) -> Observer:
    """Have every request observed, from the next building of the app's middleware stack on.

    The observing middleware and the security headers go around the whole stack, the part that answers unhandled errors
    with 500 included. The app's ``user_middleware`` would be inside of that part, so the building of the stack is
    extended.

    Args:
        app: Not answering requests yet. Its ``state.observer`` becomes the answer.
        audit_log: The audit log's file.
        audit_max_bytes: Where it is rotated.
        max_seconds: How long a request may take, for its clock.

    Raises:
        AuditLogError: If the audit log cannot be written.
    """
    observer = Observer(AuditLog(audit_log, max_bytes=audit_max_bytes), Metrics())
    build = app.build_middleware_stack

    def build_observed() -> ASGIApp:
        return ObservingMiddleware(SecurityHeaders(build()), observer, RouteTemplates(app.routes), max_seconds)

    app.build_middleware_stack = build_observed  # type: ignore[method-assign]
    app.state.observer = observer
    return observer

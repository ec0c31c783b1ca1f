"""Observation of every request from its first byte to its response's last, and of queued segmentations to their end.

Concurrency: a request's :class:`RequestRecord` and :class:`Clock` are made here, on the event loop, and are current for
all code that processes the request: worker threads get a copy of the context, so that they write into the same two
objects. The audit log's file is written in another thread: a slow disk delays only the end of the request itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from monailabel.config import settings
from starlette._utils import get_route_path  # what the router matches; there is no public function
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.base.clock import Clock, use_clock
from lib.base.request_record import RequestRecord, use_record
from lib.base.scratch import scratch_files
from lib.server.observe.audit import AuditLog, audit_entry, entry_if_killed, is_audited, outcome_of
from lib.server.observe.metrics import Metrics
from lib.server.observe.template import UNMATCHED, RouteTemplates, known_method

_QUEUED_ROUTE = "/segment_input_image/"
_TRAINING_ROUTE = "training"
"""The only route whose work can be queued."""


@dataclass(frozen=True)
class Observer:
    """Reporter of ended work to the audit log and to the metrics.

    Args:
        audit: The audit log.
        metrics: The metrics.
    """

    audit: AuditLog
    metrics: Metrics

    def job_ended(self, record: RequestRecord, clock: Clock, status: int) -> None:
        """Report a queued segmentation, from the thread that worked on it.

        Args:
            record: Its record; the timestamp links its audit line to that of the HTTP request that queued it.
            clock: Started when its processing started.
            status: HTTP status of a request for its result: 200, or that of the failure.
        """
        outcome = outcome_of(status, record.reason)
        record.route = _QUEUED_ROUTE
        if not settings.MONAI_LABEL_AUTH_ENABLE:
            record.user = None  # no login: the default user's name, admin, would mislead
        self.metrics.job_ended(outcome, clock.stages)
        self.audit.write(audit_entry(record, clock.elapsed, kind="job", method=None, status=status, outcome=outcome))

    def training_ended(self, record: RequestRecord, seconds: float, *, model: str | None, status: int) -> None:
        """Report what came of a training, from the thread that worked on it.

        Args:
            record: That of the request that started it, whose id links the two lines.
            seconds: How long it has taken until now.
            model: The version that was made, or what was to be taught.
            status: 200 if the version is served, 409 if it was refused, 422 if it could not be learned; 499 if the
                training was stopped, 500 if it failed.
        """
        record = replace(record, route=_TRAINING_ROUTE, model=model)
        self.audit.write(
            audit_entry(record, seconds, kind="job", method=None, status=status, outcome=outcome_of(status))
        )


def server_timing(clock: Clock) -> str:
    """Return the value of the header ``Server-Timing`` (W3C): milliseconds of each stage and, as ``total``, so far."""
    seconds = {**clock.stages, "total": clock.elapsed}
    return ", ".join(f"{name};dur={duration * 1000:.1f}" for name, duration in seconds.items())


@dataclass(eq=False)
class _ObservedResponse:
    """What the app has sent so far, and whether the client has disconnected. Notes the route once it is known."""

    scope: Scope
    from_client: Receive
    to_client: Send
    record: RequestRecord
    clock: Clock
    templates: RouteTemplates
    received: Callable[[], None]
    status: int | None = None
    seconds: float | None = None
    """Time until its last byte, without the app's background tasks afterwards; None before."""
    disconnected: bool = False

    def __post_init__(self) -> None:
        self._path = get_route_path(self.scope)  # a mount changes it in the scope
        self._watch: asyncio.Task[None] | None = None

    @property
    def complete(self) -> bool:
        return self.seconds is not None

    def note_route(self) -> None:
        self.record.route = self.templates.of(self.scope, self._path)

    def _may_see_stages(self) -> bool:
        """Return whether the user may see the stages, which reveal whether somebody has used the same image before."""
        user = self.scope.get("state", {}).get("user")
        is_admin = user is not None and settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles
        return is_admin or not settings.MONAI_LABEL_AUTH_ENABLE  # without a login everybody is one user

    async def receive(self) -> Message:
        message = await self.from_client()
        self._note_disconnect(message)
        if self._watch is None and message["type"] == "http.request" and not message.get("more_body", False):
            self._watch = asyncio.create_task(self._watch_client())
            self.note_route()
            self.received()
        return message

    async def _watch_client(self) -> None:
        """Wait for the disconnect, which is all that can still arrive while a complete request is processed."""
        self._note_disconnect(await self.from_client())

    def _note_disconnect(self, message: Message) -> None:
        if message["type"] == "http.disconnect" and not self.complete:
            self.disconnected = True
            self.clock.cancel()

    def end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.note_route()
            headers = [*message.get("headers", ()), (b"x-request-id", self.record.request_id.encode("ascii"))]
            if self.clock.stages and self._may_see_stages():
                headers.append((b"server-timing", server_timing(self.clock).encode("ascii")))
            message = {**message, "headers": headers}
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.seconds = self.clock.elapsed
            self.end_watch()
        await self.to_client(message)


class ObservingMiddleware:
    """Outermost middleware: makes a record and a clock current for each HTTP request, and reports how it ended.

    The request's scratch files are removed when it has ended.

    Every response gets the request's id as header ``X-Request-ID``, and also ``Server-Timing`` if an image was
    processed: it shows what took the time, and if a click had to ``encode``. With a login only administrators get it.

    An error that the app raises was already logged, with that id, and turned into a response further in; it is passed
    on to the server only if the response was not complete, so that the connection is closed.

    Args:
        app: The app with all its other middleware.
        observer: Receives the reports.
        max_seconds: Time limit of the clocks.
    """

    def __init__(self, app: ASGIApp, observer: Observer, max_seconds: float) -> None:
        self.app = app
        self._observer = observer
        self._templates: RouteTemplates | None = None
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, observed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._templates is None:
            self._templates = RouteTemplates(scope["app"].routes)
        client = scope.get("client")
        record = RequestRecord(client=client[0] if client else None)
        clock = Clock(self._max_seconds)
        in_flight = self._observer.audit.in_flight
        slots: list[int] = []

        def received() -> None:
            if is_audited(record.route or UNMATCHED, None):
                slots.append(in_flight.begin(entry_if_killed(record, method=known_method(scope["method"]))))

        sent = _ObservedResponse(scope, receive, send, record, clock, self._templates, received)
        with use_record(record), use_clock(clock), scratch_files():
            try:
                await self.app(scope, sent.receive, sent.send)
            except Exception as error:
                record.reason = record.reason or type(error).__name__
                if not sent.complete:
                    raise
            finally:
                sent.end_watch()
                sent.note_route()
                try:
                    await self._report(known_method(scope["method"]), record, clock, sent)
                finally:
                    for slot in slots:
                        in_flight.end(slot)

    async def _report(self, method: str, record: RequestRecord, clock: Clock, sent: _ObservedResponse) -> None:
        route, status = record.route or UNMATCHED, sent.status
        seconds = clock.elapsed if sent.seconds is None else sent.seconds
        self._observer.metrics.request_ended(method, route, status, seconds, clock.stages)
        if not is_audited(route, status):
            return
        entry = audit_entry(
            record,
            seconds,
            kind="request",
            method=method,
            status=status,
            outcome="disconnected" if sent.disconnected or not sent.complete else outcome_of(status, record.reason),
        )
        await asyncio.to_thread(self._observer.audit.write, entry)

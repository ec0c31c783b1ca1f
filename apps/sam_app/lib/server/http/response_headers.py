"""Pure ASGI middleware that changes the headers of responses: for security, and redirects within this server."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DEFAULTS: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"x-frame-options": b"SAMEORIGIN",
    b"content-security-policy": b"frame-ancestors 'self'",
    b"cache-control": b"no-store",
}
_PUBLIC = ("/ohif/", "/static/", "/sam/docs-assets/", "/favicon.ico")
"""Paths of files that come with the software: a browser may cache them."""


class ResponseStart:
    """Base class: passes each request on, and the start of its response through :meth:`changed`.

    Args:
        app: Its responses are changed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_changed(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            await send(self.changed(message, scope) if is_start else message)

        await self.app(scope, receive, send_changed)

    def changed(self, start: Message, scope: Scope) -> Message:
        """Return the message ``http.response.start`` to send instead."""
        raise NotImplementedError


class SecurityHeaders(ResponseStart):
    """Middleware that adds each header that the response does not have yet.

    No other site may show pages of this server in a frame, browsers neither guess content types nor pass on pages'
    addresses, and caches store no possible patient data. OHIF's own files stay cacheable. Like upstream's, this server
    does not ask for cross-origin isolation, which the bundled OHIF does not need.
    """

    def changed(self, start: Message, scope: Scope) -> Message:
        """Return the message with all headers."""
        headers = list(start.get("headers", ()))
        present = {name.lower() for name, _ in headers}
        if scope["path"].startswith(_PUBLIC):
            present.add(b"cache-control")
        return {**start, "headers": headers + [item for item in _DEFAULTS.items() if item[0] not in present]}


class RelativeRedirects(ResponseStart):
    """Middleware that removes scheme and host from ``Location`` where they are the request's own.

    Behind a proxy that terminates TLS, or has another name, an absolute address would be wrong.
    """

    def changed(self, start: Message, scope: Scope) -> Message:
        """Return the message with a relative ``Location``."""
        if not 300 <= start["status"] < 400:
            return start
        headers = MutableHeaders(raw=list(start.get("headers", ())))
        headers.update(_relative(headers.get("location"), Headers(scope=scope).get("host", "")))
        return {**start, "headers": headers.raw}


def _relative(location: str | None, host: str) -> dict[str, str]:
    """Return the header to replace; empty if there is no ``Location``, or it leads to another server."""
    parts = urlsplit(location or "")
    if not parts.netloc or parts.netloc != host:
        return {}
    path = "/" + parts.path.lstrip("/")  # with two leading slashes its first part would be a host
    return {"location": parts._replace(scheme="", netloc="", path=path).geturl()}

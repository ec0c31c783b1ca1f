"""Response headers that restrict what a browser may do with this server's pages and data."""

from __future__ import annotations

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


class SecurityHeaders:
    """Pure ASGI middleware: adds each header that the response does not have yet.

    No other site may show pages of this server in a frame, browsers neither guess content types nor pass on pages'
    addresses, and caches store no possible patient data. OHIF's own files stay cacheable. Like upstream's, this server
    does not ask for cross-origin isolation, which the bundled OHIF does not need.

    Args:
        app: Its responses get the headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_public = scope["path"].startswith(_PUBLIC)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                if is_public:
                    present.add(b"cache-control")
                headers += [item for item in _DEFAULTS.items() if item[0] not in present]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_headers)

"""Relative redirects within this server: it knows its own address only from the client's ``Host`` header."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RelativeRedirects:
    """Pure ASGI middleware: removes scheme and host from ``Location`` where they are the request's own.

    Behind a proxy that terminates TLS, or has another name, an absolute address would be wrong.

    Args:
        app: Its responses are changed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")

        async def send_relative(message: Message) -> None:
            if message["type"] == "http.response.start" and 300 <= message["status"] < 400:
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers.update(_relative(headers.get("location"), host))
                message = {**message, "headers": headers.raw}
            await send(message)

        await self._app(scope, receive, send_relative)


def _relative(location: str | None, host: str) -> dict[str, str]:
    """Return the header to replace; empty if there is no ``Location``, or it leads to another server."""
    parts = urlsplit(location or "")
    if not parts.netloc or parts.netloc != host:
        return {}
    path = "/" + parts.path.lstrip("/")  # with two leading slashes its first part would be a host
    return {"location": parts._replace(scheme="", netloc="", path=path).geturl()}

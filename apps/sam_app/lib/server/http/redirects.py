"""Redirects within this server, relative to it: its own idea of its address is what a client claimed in ``Host``."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RelativeRedirects:
    """Pure ASGI middleware: takes scheme and host out of ``Location`` where they are the request's own.

    Behind a proxy that ends TLS, or is known by another name, an address with both would lead elsewhere.

    Args:
        app: Whose answers are changed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on the request."""
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
    """The header to replace; nothing where there is none, or it leads to another server."""
    parts = urlsplit(location or "")
    if not parts.netloc or parts.netloc != host:
        return {}
    path = "/" + parts.path.lstrip("/")  # two slashes at its beginning would make a host of its first part
    return {"location": parts._replace(scheme="", netloc="", path=path).geturl()}

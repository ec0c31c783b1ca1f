"""A further port of the server, at whose root are the paths below a prefix: for clients that know no path.

It shares everything with the first port: the app with its checks, the limits of connections, TLS, and its end.

uvicorn is started before the app is loaded, so this replaces the running event loop's ``create_server``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)


class RootPort:
    """ASGI middleware that puts a prefix before the path of each request that came in on a port.

    Args:
        app: The app, which has routes below the prefix.
        port: The port.
        prefix: Begins with a slash and does not end with one.
    """

    def __init__(self, app: ASGIApp, port: int, prefix: str) -> None:
        self._app = app
        self._port = port
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if (scope.get("server") or ("", None))[1] == self._port:
            path = self._prefix + scope["path"]
            scope = {**scope, "path": path, "raw_path": self._prefix.encode() + scope.get("raw_path", b"")}
        await self._app(scope, receive, send)


def listen_also_on(port: int) -> None:
    """Have the server that the running event loop makes next listen on a further port of the same address.

    Args:
        port: The port. If it cannot be listened on, making the server fails with an OSError.

    Raises:
        AttributeError: If the event loop is not asyncio's own.
    """
    loop = asyncio.get_running_loop()
    create: Callable[..., Any] = loop.create_server

    async def create_both(protocol_factory: Callable[[], asyncio.Protocol], **kwargs: Any) -> asyncio.Server:
        loop.create_server = create  # type: ignore[method-assign]
        server: asyncio.Server = await create(protocol_factory, **kwargs)
        close = server.close

        def close_both() -> None:
            further.close()
            close()

        try:
            further: asyncio.Server = await create(protocol_factory, **{**kwargs, "port": port})
        except OSError:
            close()
            raise
        logger.info("Listening on port %d, too", port)
        server.close = close_both  # type: ignore[method-assign]
        return server

    loop.create_server = create_both  # type: ignore[assignment]

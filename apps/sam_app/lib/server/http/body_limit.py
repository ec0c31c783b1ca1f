"""Limits of the size of a request's body and of the time it takes to arrive, for every route of the server.

The server discards the rest of a body that is too large as it arrives, so that the client can finish sending and read
the response. It does not wait for the rest of a slow body: the connection is closed after the response.
"""

from __future__ import annotations

import time

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_WHOLE_BYTES = 1 << 20
"""Limit of a body without parts: JSON and the fields of a small form are read into memory as a whole."""


class BodyLimit:
    """Pure ASGI middleware that bounds bodies as routes read them; its errors become responses with a ``detail``.

    Args:
        app: Has a handler for ``HTTPException``, as FastAPI's stack has below its middleware.
        max_bytes: A body is refused with 413 as soon as its announced or its received length is larger; so is one of
            more than 1 MiB that is not ``multipart``.
        max_seconds: A body that is not complete by then is refused with 408.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body bounded; the limits apply only when the body is read."""
        if scope["type"] == "http":
            receive = _BoundedReceive(scope, receive, self._max_bytes, self._max_seconds)
        await self.app(scope, receive, send)


class _BoundedReceive:
    """``receive`` of one request, with limits."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, max_seconds: float) -> None:
        self._receive = receive
        kind = Headers(scope=scope).get("content-type", "").strip().lower()
        self._max_bytes = max_bytes if kind.startswith("multipart/") else min(max_bytes, _MAX_WHOLE_BYTES)
        self._max_seconds = max_seconds
        self._deadline = time.monotonic() + max_seconds
        self._received = 0
        self._complete = False
        self._announced = _content_length(scope)

    async def __call__(self) -> Message:
        if self._complete:  # only the disconnect can follow, at any time
            return await self._receive()
        if self._announced > self._max_bytes:
            raise self._too_large()
        try:
            with anyio.fail_after(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            detail = f"the request did not arrive completely within {self._max_seconds:g} seconds"
            raise HTTPException(408, detail, headers={"Connection": "close"}) from None
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> HTTPException:
        limit = f"{self._max_bytes / 2**20:.3g} MiB"
        return HTTPException(413, f"the request is larger than the {limit} that are allowed")


def _content_length(scope: Scope) -> int:
    """Return the body's announced length; 0 without one, as with chunks. The server has checked that it is a number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)

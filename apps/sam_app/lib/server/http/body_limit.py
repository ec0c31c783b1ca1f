"""How large a request's body may be, and how long it may take to arrive. Holds for every route of the server.

The rest of a body that is too large is thrown away by the server as it comes, so that the client can finish sending and
read the answer. A body that comes too slowly is not waited for: the connection is closed after the answer.
"""

from __future__ import annotations

import time

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_WHOLE_BYTES = 1 << 20
"""Of a body without parts: JSON and the fields of a small form are read into memory as a whole."""


class BodyLimit:
    """Pure ASGI middleware; what it raises, inside the routes that read the body, the app answers with a ``detail``.

    Args:
        app: Has a handler for ``HTTPException``, as FastAPI's stack has below its middleware.
        max_bytes: A larger body is answered 413, as soon as its announced or its received length is larger; so is one
            without parts (``multipart``) of more than 1 MiB.
        max_seconds: A body that is not complete by then is answered 408.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on the request with its body bounded; only what reads the body meets the limits."""
        if scope["type"] == "http":
            receive = _BoundedReceive(scope, receive, self._max_bytes, self._max_seconds)
        await self.app(scope, receive, send)


class _BoundedReceive:
    """``receive`` of one request."""

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
        if self._complete:  # what comes now is the client's leaving: no matter when
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
    """The body's announced length; 0 if there is none, as with chunks. The server has checked that it is a number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)

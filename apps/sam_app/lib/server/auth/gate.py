"""Lets nobody in without a login, but to the few paths that hold no data.

MONAI Label's own guard is a dependency of its routes. It comes too late (FastAPI has read the whole body by then, an
upload of any size), and whatever lacks it is open: mounted folders, ``/reload``. So this middleware stands before all
routes, and everything that is not named here is closed. Which role a route asks for is still its own dependency's
matter, which finds here who the user is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.endpoints.user.auth import User
from starlette._utils import get_route_path  # what the router matches; there is no public way to ask for it
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.server.auth.authenticator import Authenticator
from lib.server.auth.errors import AuthError, ForeignPageError
from lib.server.record import note

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset(
    {
        *("/health_check/", "/health_check"),
        *("/", "/docs", "/openapi.json", "/favicon.ico"),
        *("/sam/", "/sam"),
        *("/auth/", "/auth", "/auth/token"),
    }
)
"""The server's state, the documentation, the page and the login, and what redirects to them."""
OPEN_FOLDERS = ("/sam/docs-assets/", "/sam/page/")
"""Scripts and pictures of the documentation and the page."""


def is_open(path: str) -> bool:
    """Whether a path of the server needs no login."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


class Gate:
    """ASGI middleware that answers 401 unless the request is a known user's, who is then in ``request.state.user``.

    The header ``Authorization`` goes no further than this, so that no route can pass it on or write it down.

    Args:
        app: What is behind it.
        authenticator: Tells users.
        origins: Of web pages that may use a login which the browser remembers; others may not, or any page that a user
            has open could act in their name.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, origins: Collection[str]) -> None:
        self._app = app
        self._authenticator = authenticator
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] == "lifespan" or is_open(get_route_path(scope)):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            user = await self._authenticator.user_of(headers.get("authorization", ""))
            self._check_page(headers)
        except AuthError as error:
            await refuse(error, scope, self._authenticator.challenges)(scope, receive, send)
            return
        note(user=user.username)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, receive, send)

    def _check_page(self, headers: Headers) -> None:
        """Browsers add a remembered Basic login to any page's requests, and the page's origin to all but plain GETs.

        Raises:
            ForeignPageError: If the page is neither this server's nor one of those allowed.
        """
        origin = headers.get("origin")
        if origin is None or not headers["authorization"].lower().startswith("basic "):
            return
        if origin not in self._origins and urlsplit(origin).netloc != headers.get("host"):
            raise ForeignPageError("pages of other origins may not use this login; --conf cors_origins allows some")


def refuse(error: AuthError, scope: Scope, challenges: Collection[str]) -> JSONResponse:
    """Log that a request is not let through, and make the answer to it.

    Args:
        error: Why.
        scope: The request's.
        challenges: What a 401 offers in ``WWW-Authenticate``.
    """
    client = scope["client"][0] if scope.get("client") else "an unknown address"
    logger.warning("Refused a request from %s: %s", client, error)
    note(reason=type(error).__name__)
    answer = JSONResponse({"detail": str(error)}, status_code=error.status)
    if error.status == 401:
        for challenge in challenges:
            answer.headers.append("WWW-Authenticate", challenge)
    elif error.status == 503:
        answer.headers["Retry-After"] = "5"
    return answer


def user_of_request(request: Request) -> User:
    """The user whom :class:`Gate` let in; what MONAI Label's ``get_current_user`` answers while it stands."""
    user: User = request.state.user
    return user

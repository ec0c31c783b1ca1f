"""Lets nobody in without a login, but to the few paths that hold no data.

MONAI Label's own guard is a dependency of its routes. It comes too late (FastAPI has read the whole body by then, an
upload of any size), and whatever lacks it is open: mounted folders, ``/reload``. So this middleware stands before all
routes, and everything that is not named here is closed. Which role a route asks for is its own dependency's matter,
which finds here who the user is; it is asked before the first byte of a body is read. What is open takes small bodies.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from monailabel.endpoints.user.auth import RBAC, User
from starlette._utils import get_route_path  # what the router matches; there is no public way to ask for it
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.base.request_record import note
from lib.server.auth.authenticator import Authenticator
from lib.server.auth.login_errors import AuthError
from lib.server.auth.pages import Pages
from lib.server.auth.refusal import refuse
from lib.server.http.body_limit import BodyLimit

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
_OPEN_BYTES, _OPEN_SECONDS = 1 << 16, 20.0
"""Of a body that comes without a login, as a user name and a password do."""


def is_open(path: str) -> bool:
    """Whether a path of the server needs no login."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


class Gate:
    """ASGI middleware that answers 401 unless the request is a known user's, who is then in ``request.state.user``.

    The header ``Authorization`` goes no further than this, so that no route can pass it on or write it down.

    Args:
        app: What is behind it.
        authenticator: Tells users.
        pages: Tells which web pages may use a login that the browser remembers: with others, any page that a user has
            open could act in their name.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, pages: Pages) -> None:
        self._app = app
        self._open = BodyLimit(app, max_bytes=_OPEN_BYTES, max_seconds=_OPEN_SECONDS)
        self._authenticator = authenticator
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] == "lifespan" or is_open(get_route_path(scope)):
            await self._open(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            user = await self._authenticator.user_of(headers.get("authorization", ""))
            if headers["authorization"].lower().startswith("basic "):  # browsers add one to any page's requests
                self._pages.check_page(headers, with_login=True)
        except AuthError as error:
            await refuse(error, scope, self._authenticator.challenges)(scope, receive, send)
            return
        note(user=user.username)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, _RolesFirst(scope, receive, user), send)


class _RolesFirst:
    """``receive`` of a request that asks for the roles of its route before anything is read.

    FastAPI asks for them, as for all dependencies, when it has the whole body.
    """

    def __init__(self, scope: Scope, receive: Receive, user: User) -> None:
        self._scope = scope
        self._receive = receive
        self._user = user
        self._is_checked = False

    async def __call__(self) -> Message:
        if not self._is_checked:
            route = self._scope.get("route")
            for roles in _roles(route.dependant) if isinstance(route, APIRoute) else ():
                await roles(self._user)
            self._is_checked = True
        return await self._receive()


def _roles(dependant: Dependant) -> Iterator[RBAC]:
    """What a route's function asks of its user."""
    for inner in dependant.dependencies:
        if isinstance(inner.call, RBAC):
            yield inner.call
        yield from _roles(inner)


def user_of_request(request: Request) -> User:
    """The user whom :class:`Gate` let in; what MONAI Label's ``get_current_user`` answers while it stands."""
    user: User = request.state.user
    return user

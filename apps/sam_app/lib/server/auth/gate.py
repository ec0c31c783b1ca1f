"""Middleware that requires a login for all paths except a few without data.

MONAI Label's own check is a dependency of its routes. It runs too late (FastAPI has read the whole body by then, an
upload of any size), and routes without it are open: mounted folders, ``/reload``. So this middleware runs before all
routes, and every path that is not listed here is closed. The role that a route requires is still checked by the route's
dependency, with the user found here; this middleware calls it before the first byte of a body is read. Open paths
accept only small bodies.
"""

import re
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from monailabel.endpoints.user.auth import RBAC, User
from starlette._utils import get_route_path  # the path that the router matches; there is no public function
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.base.request_record import note
from lib.server.auth.authenticator import Authenticator
from lib.server.auth.login_errors import AuthError, refuse
from lib.server.auth.pages import Pages
from lib.server.auth.roles import SEGMENTING
from lib.server.auth.users import current_user
from lib.server.http.body_check import BodyLimit

OPEN_PATHS = frozenset(
    {
        *("/health_check/", "/health_check"),
        *("/", "/docs", "/openapi.json", "/favicon.ico"),
        *("/sam/", "/sam"),
        *("/auth/", "/auth", "/auth/token"),
    }
)
"""Open paths: the server's state, the documentation, the page and the login, and redirects to them."""
OPEN_FOLDERS = ("/sam/docs-assets/", "/sam/page/")
"""Open folders: scripts and pictures of the documentation and the page."""
OPEN_PATTERN = re.compile(r"/nninteractive/([^/]+/)?healthz|/itksnap/status")
"""Open paths of nnInteractive's and ITK-SNAP's protocols: whether a model can be used, or the server is there."""
_MAX_OPEN_BYTES, _MAX_OPEN_SECONDS = 1 << 16, 20.0
"""Limits of a body that is sent without a login, such as a user name and a password."""


def is_open(path: str) -> bool:
    """Return whether a path of the server needs no login."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS) or OPEN_PATTERN.fullmatch(path) is not None


class Gate:
    """ASGI middleware that responds 401 unless the user of a request is known, and sets ``request.state.user``.

    It removes the header ``Authorization``, so that no route can pass it on or log it.

    Args:
        app: The ASGI app to protect.
        authenticator: Identifies users.
        pages: Decides which web pages may use a login that the browser remembers: without this check, any page that a
            user has open could act in the user's name.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, pages: Pages) -> None:
        self._app = app
        self._open = BodyLimit(app, max_bytes=_MAX_OPEN_BYTES, max_seconds=_MAX_OPEN_SECONDS)
        self._authenticator = authenticator
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or is_open(get_route_path(scope)):
            await self._open(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            user = await self._authenticator.user_of(headers.get("authorization", ""))
            if headers["authorization"].lower().startswith("basic "):  # browsers add it to requests of any page
                self._pages.check_page(headers, with_login=True)
        except AuthError as error:
            await refuse(error, scope, self._authenticator.challenges)(scope, receive, send)
            return
        note(user=user.username)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, _RoleCheckingReceive(scope, receive, user), send)


class _RoleCheckingReceive:
    """``receive`` of a request that checks the roles required by its route before it reads anything.

    FastAPI checks them, like all dependencies, only after it has read the whole body.
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
    """Yield the role checks among the dependencies of a route."""
    for inner in dependant.dependencies:
        if isinstance(inner.call, RBAC):
            yield inner.call
        elif inner.call is current_user:
            yield SEGMENTING
        yield from _roles(inner)


async def user_of_request(request: Request) -> User:
    """Return the user found by :class:`Gate`; replaces MONAI Label's ``get_current_user`` while a login is needed."""
    return request.state.user

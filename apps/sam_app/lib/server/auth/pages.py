"""Other people's web pages cannot use this server through the browser of one of its users.

Two ways lead there, with or without a login:

- DNS rebinding: a page's own name is made to mean this server's address, so that the browser takes what comes from here
  for the page's own. It still sends that name as ``Host``. A name must therefore be known here; an address cannot be
  rebound, and any will do.
- Cross-site requests: a browser sends a form, or a simple ``fetch``, to any server, and does not let the page read the
  answer; by then the work is done. It says where the page came from, in ``Sec-Fetch-Site`` and ``Origin``, which no
  page can change. What changes something must therefore come from a page of this server or of an allowed origin.
  Programs that are no browsers send neither, and are not held up.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.server.auth.exposure import listening_host
from lib.server.auth.login_errors import AuthError, ForeignHostError, ForeignPageError
from lib.server.auth.refusal import refuse

ANY = "*"
_UNCHANGING = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]@]+))(?::\d*)?")
_PORTS = {"http": "80", "https": "443"}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")


def own_names(hosts: Sequence[str], command: Sequence[str]) -> frozenset[str]:
    """The names under which this server may be asked for, in lower case; with ``*`` among them any.

    Args:
        hosts: Those that the operator gave.
        command: The command line of ``monailabel start_server``: what it listens on can be a name.
    """
    machine = socket.gethostname().partition(".")[0]
    names = ("localhost", machine, f"{machine}.local", socket.gethostname(), listening_host(command), *hosts)
    return frozenset(name.lower().rstrip(".") for name in names)


class Pages:
    """Tells requests of this server's own and of allowed pages from those of others.

    Args:
        names: As of :func:`own_names`.
        origins: Of other servers' pages that may use this one; ``*`` stands for all, but not with a login that the
            browser adds by itself.
    """

    def __init__(self, names: Collection[str], origins: Collection[str]) -> None:
        self._names = names
        self._origins = origins

    def check_host(self, headers: Headers) -> None:
        """Let a request pass that asks for this server.

        Raises:
            ForeignHostError: If its ``Host`` is a name that is not known.
        """
        name = _name(headers.get("host", ""))
        if not name or ANY in self._names or name in self._names or _is_address(name):
            return
        shown = name if _PLAIN_NAME.fullmatch(name) else "NAME"
        raise ForeignHostError(
            f"this server is not known by the name it was asked for: use its address, localhost or this machine's "
            f"name; or start it with --conf hosts {shown}"
        )

    def check_page(self, headers: Headers, *, with_login: bool = False) -> None:
        """Let a request pass that a page of another origin did not send, unless it may.

        Args:
            headers: Of the request.
            with_login: Whether the browser has added a login that it remembers.

        Raises:
            ForeignPageError: If a page did that may not use this server.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("same-origin", "none") or (site is None and origin is None):
            return
        if origin is not None and origin in self._origins:
            return
        if ANY in self._origins and not with_login:
            return
        if site is None and origin is not None and _is_of(origin, headers.get("host", "")):
            return
        raise ForeignPageError(
            "a page of another origin sent this request, and may not: --conf cors_origins ORIGIN,ORIGIN lets pages in"
        )


class PageCheck:
    """Pure ASGI middleware: 421 for a request by a foreign name, 403 for a foreign page's that would change something.

    Args:
        app: What is behind it.
        pages: Tells them.
    """

    def __init__(self, app: ASGIApp, pages: Pages) -> None:
        self._app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it without reading its body."""
        if scope["type"] != "lifespan":
            try:
                headers = Headers(scope=scope)
                self._pages.check_host(headers)
                if scope.get("method") not in _UNCHANGING:  # a WebSocket has none, and can change anything
                    self._pages.check_page(headers)
            except AuthError as error:
                await refuse(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """The name or address in a ``Host`` header without its port; a header of another form as it is."""
    parts = _HOST.fullmatch(host)
    return (parts[1] or parts[2] if parts else host).lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_of(origin: str, host: str) -> bool:
    """Whether an origin is the server that was asked for; browsers leave out a scheme's own port, proxies may not."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return host in (parts.netloc, f"{parts.netloc}:{_PORTS.get(parts.scheme, '')}")

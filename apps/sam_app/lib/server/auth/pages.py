"""Protection against foreign web pages that use this server through the browser of one of its users.

Two attacks are possible, with or without a login:

- DNS rebinding: the host name of a page is made to resolve to this server's address, so that the browser treats this
  server as the page's own. It still sends that name as ``Host``. Therefore a name in ``Host`` must be known here; an
  address cannot be rebound, so any address is accepted.
- Cross-site requests: a browser sends a form, or a simple ``fetch``, to any server. It does not let the page read the
  response, but by then the work is done. It describes the page's origin in ``Sec-Fetch-Site`` and ``Origin``, which a
  page cannot change. Therefore a request that changes something must come from a page of this server or of an allowed
  origin. Programs that are not browsers send neither header, and are let through.
"""

import argparse
import ipaddress
import logging
import re
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette._utils import get_route_path  # the path that the router matches; there is no public function
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.server.auth.login_errors import AuthError, ForeignHostError, ForeignPageError, refuse

ANY = "*"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]@]+))(?::\d*)?")
_PORTS = {"http": "80", "https": "443"}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")


def accepted_hosts(hosts: Sequence[str], command: Sequence[str]) -> frozenset[str]:
    """Return the host names that are accepted for this server, in lower case; ``*`` accepts any.

    Args:
        hosts: Names set by the operator.
        command: The command line of ``monailabel start_server``: the listening address in it can be a name.
    """
    machine = socket.gethostname().partition(".")[0]
    names = ("localhost", machine, f"{machine}.local", socket.gethostname(), listening_host(command), *hosts)
    return frozenset(name.lower().rstrip(".") for name in names)


logger = logging.getLogger(__name__)

_DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - upstream's default, compared


def warn_if_exposed(command: Sequence[str]) -> None:
    """Log a warning unless the server can be reached only from this machine.

    Args:
        command: The command line of ``monailabel start_server``. Only there the listening address is known (by default
            all addresses); the ASGI app does not get it.
    """
    host = listening_host(command)
    if not is_loopback(host):
        logger.warning(
            "Anyone in the network can use this server: it listens on %s without a login. "
            "Start it with --host 127.0.0.1, or with --conf api_keys FILE (scripts/keys makes one)",
            host,
        )


def listening_host(command: Sequence[str]) -> str:
    """Return the address on which the server listens according to its command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default=_DEFAULT_HOST)
    return parser.parse_known_args(list(command))[0].host


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    address = _as_address(host)
    return address.is_loopback if address else host == "localhost"


def _as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address; None if it is a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(name)
    return None


class Pages:
    """Checks whether a request comes from a page of this server or an allowed page.

    Args:
        names: The result of :func:`accepted_hosts`.
        origins: Origins of other servers' pages that may use this one; ``*`` allows all, but not with a login that the
            browser adds by itself.
    """

    def __init__(self, names: Collection[str], origins: Collection[str]) -> None:
        self._names = names
        self._origins = origins

    def check_host(self, headers: Headers) -> None:
        """Raise if a request was not sent to one of this server's names or to an address.

        Raises:
            ForeignHostError: If its ``Host`` is an unknown name.
        """
        name = _name(headers.get("host", ""))
        if not name or ANY in self._names or name in self._names or _as_address(name):
            return
        shown = name if _PLAIN_NAME.fullmatch(name) else "NAME"
        raise ForeignHostError(
            f"this server does not accept the host name in the request: use its address, localhost or this machine's "
            f"name; or start it with --conf hosts {shown}"
        )

    def check_page(self, headers: Headers, *, with_login: bool = False) -> None:
        """Raise if a request was sent by a page of another origin that is not allowed.

        Args:
            headers: The request's headers.
            with_login: Whether the browser has added a login that it remembers.

        Raises:
            ForeignPageError: If the page may not use this server.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        is_own = site in ("same-origin", "none") or (site is None and origin is None)
        is_allowed = origin in self._origins or (ANY in self._origins and not with_login)
        if is_own or is_allowed or (site is None and _is_origin_of_host(origin or "", headers.get("host", ""))):
            return
        raise ForeignPageError(
            "a web page of another origin sent this request, which is not allowed: start the server with --conf "
            "cors_origins ORIGIN,ORIGIN to allow origins"
        )


class PageCheck:
    """ASGI middleware: 421 for a request to an unknown host name, 403 for an unsafe method used by a foreign page.

    Args:
        app: The ASGI app to protect.
        pages: Checks the requests.
        changing_paths: Whole paths by which safe methods change something, too.
    """

    def __init__(self, app: ASGIApp, pages: Pages, changing_paths: re.Pattern[str] | None = None) -> None:
        self._app = app
        self._pages = pages
        self._changing_paths = changing_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it without reading its body."""
        if scope["type"] != "lifespan":
            try:
                headers = Headers(scope=scope)
                self._pages.check_host(headers)
                if not self._is_safe(scope):
                    self._pages.check_page(headers)
            except AuthError as error:
                await refuse(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_safe(self, scope: Scope) -> bool:
        """Return whether a request changes nothing; a WebSocket has no method, and can change anything."""
        changes = self._changing_paths is not None and self._changing_paths.fullmatch(get_route_path(scope))
        return scope.get("method") in _SAFE_METHODS and not changes


def _name(host: str) -> str:
    """Return the name or address in a ``Host`` header without its port; a malformed header unchanged."""
    parts = _HOST.fullmatch(host)
    return (parts[1] or parts[2] if parts else host).lower().removesuffix(".")


def _is_origin_of_host(origin: str, host: str) -> bool:
    """Return whether an origin is the server in ``Host``; browsers omit a scheme's default port, proxies may not."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return host in (parts.netloc, f"{parts.netloc}:{_PORTS.get(parts.scheme, '')}")

"""Who may hold a connection, and how long without asking for anything.

uvicorn accepts whoever comes, and waits for the head of a request for ever: a few hundred silent connections take all
the files that the process may have open, and then nobody is served. Here

- a connection that sends no whole head of a request in time is closed, as is one whose client does not read,
- there are never more connections than leave a reserve of files for the server's own work, and
- one address has a share of them.

When there is no room for a new connection, those go that wait for their client: of the address that has most of them
those that have waited longest. A connection whose request is being worked on stays. If there are no others, the new one
is closed.

The seam to uvicorn, which is started before the app is loaded, is the running event loop's ``create_server``.
"""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import logging
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Container
from functools import partial
from typing import Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 4096
"""As many as there can be, however many files may be open."""
_RESERVE = 256
"""Files for everything else: uploads, results, decoders, the DICOMweb server; a quarter where there are few."""
_MOST_FILES = 1 << 16

_ACCEPTED_AT_ONCE = 16
"""asyncio accepts as many as the backlog holds before it looks at the first of them."""
_BACKLOG = 2048
_POLL_EVERY_S = 1.0

HEAD_S = 20.0
"""For the head of the next request to come."""
STALLED_S = 120.0
"""For a client to take more of its answer, or to end the upload that was refused."""


def raise_file_limit() -> None:
    """Let this process, and those that it starts, have as many files open as the system's administrator allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def room_for_connections() -> int:
    """How many connections leave a reserve of the files that this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    return max(_ACCEPTED_AT_ONCE, min(MAX_CONNECTIONS, limit - in_use - min(_RESERVE, limit // 4)))


def trusted_proxies() -> Container[str]:
    """The addresses whose ``X-Forwarded-For`` uvicorn believes: single ones, networks or, by ``*``, all of them."""
    trusted = ProxyHeadersMiddleware(cast(Any, None), os.environ.get("FORWARDED_ALLOW_IPS", "")).trusted_hosts
    return cast(Container[str], trusted)


class Connection(asyncio.Protocol):
    """One connection: uvicorn's protocol, and since when its client has kept it waiting.

    Args:
        protocol: Gets what comes in.
        connections: All of them.
    """

    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections
        self._request: object = None
        self._unsent = 0
        self._is_open = False
        self.address = ""
        self.since = time.monotonic()
        """Monotonic seconds: when the client last had what it asked for, or took some of it."""
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It was accepted."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._connections.add(self):
            self.transport.abort()
            return
        self._is_open = True
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._connections.remove(self)
        if self._is_open:
            self._protocol.connection_lost(exc)

    @property
    def wait_until(self) -> int | None:
        """What its client owes: 0 the next request, 1 to read the answer, 2 the request's body; None: nothing."""
        request: Any = getattr(self._protocol, "cycle", None)  # uvicorn's name of a request and its answer
        if request is None or request.response_complete:
            return 0
        if self.transport.get_write_buffer_size():
            return 1
        return 2 if request.more_body else None

    def look(self, now: float) -> float | None:
        """Note what has happened since the last look; seconds until which the client may keep it waiting, None: ever.

        Args:
            now: Monotonic seconds.
        """
        request: Any = getattr(self._protocol, "cycle", None)
        unsent = self.transport.get_write_buffer_size()
        wait_until = self.wait_until
        if request is not self._request or unsent != self._unsent or wait_until in (None, 2):
            self.since = now
        self._request, self._unsent = request, unsent
        if wait_until in (None, 2):  # the body has a time limit of its own
            return None
        is_sending = request is not None and request.more_body  # an upload that was refused, to its end
        return self.since + (STALLED_S if wait_until == 1 or is_sending else HEAD_S)


class Connections:
    """All connections of the server. Used on the event loop alone.

    Args:
        limit: At most this many.
        limit_of_address: At most this many of one address.
        unlimited: Of these addresses each may have all of them; those of this machine may in any case.
    """

    def __init__(self, limit: int, limit_of_address: int, unlimited: Container[str] = ()) -> None:
        self.limit = limit
        self._limit_of_address = limit_of_address
        self._unlimited = unlimited
        self._all: set[Connection] = set()
        self._of_address: Counter[str] = Counter()

    def add(self, connection: Connection) -> bool:
        """Take a connection in, if there is or can be made room for it."""
        address = connection.address
        if self._of_address[address] >= self._limit_of_address and not self._has_all(address):
            self._make_room([other for other in self._all if other.address == address])
            if self._of_address[address] >= self._limit_of_address:
                return False
        if len(self._all) >= self.limit:
            self._make_room(self._all)
            if len(self._all) >= self.limit:
                return False
        self._all.add(connection)
        self._of_address[address] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """It is closed, or about to be."""
        if connection in self._all:
            self._all.remove(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def close_silent(self, now: float) -> None:
        """Close those whose client has kept the server waiting for too long.

        Args:
            now: Monotonic seconds.
        """
        for connection in list(self._all):
            ends = connection.look(now)
            if connection.transport.is_closing() and not connection.transport.get_write_buffer_size():
                self.remove(connection)
            elif ends is not None and now > ends:
                self._close(connection)

    def _make_room(self, connections: Collection[Connection]) -> None:
        """Close some that wait for their client; several at once, as the choice looks at all of them."""
        waiting = [
            ((owed, -self._of_address[connection.address], connection.since), id(connection), connection)
            for connection in connections
            if (owed := connection.wait_until) is not None
        ]
        for _, _, connection in heapq.nsmallest(1 + len(connections) // 16, waiting):
            self._close(connection)
        if waiting:
            logger.warning("There was no room for a new connection: some that were silent for longest were closed")
        else:
            logger.warning("There is no room for a new connection: it was closed")

    def _close(self, connection: Connection) -> None:
        self.remove(connection)
        connection.transport.abort()

    def _has_all(self, address: str) -> bool:
        try:
            return not address or address in self._unlimited or ipaddress.ip_address(address).is_loopback
        except ValueError:
            return False


def limit_connections(limit_of_address: int) -> None:
    """Bound the connections of the servers that the running event loop makes from now on.

    Args:
        limit_of_address: As in :class:`Connections`; proxies that uvicorn trusts may have all.
    """
    connections = Connections(room_for_connections(), limit_of_address, trusted_proxies())
    watch_connections(asyncio.get_running_loop(), connections)


def watch_connections(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Have the connections of servers that are made from now on kept within bounds.

    Args:
        loop: The running event loop; another than asyncio's own may not let itself be changed, which is logged.
        connections: Keeps them.
    """
    create = loop.create_server
    try:
        loop.create_server = partial(_create_server, create, connections)  # type: ignore[method-assign]
    except AttributeError:
        logger.warning("Connections are not limited: the event loop is not asyncio's own")
        return

    def look() -> None:
        connections.close_silent(time.monotonic())
        loop.call_later(_POLL_EVERY_S, look)

    loop.call_later(_POLL_EVERY_S, look)
    logger.info("At most %d connections", connections.limit)


async def _create_server(
    create: Callable[..., Any],
    connections: Connections,
    protocol_factory: Callable[[], asyncio.Protocol],
    *args: Any,
    **kwargs: Any,
) -> asyncio.Server:
    """As the event loop's; but few are accepted at once, and the kernel holds the others meanwhile."""
    if kwargs.get("ssl"):
        kwargs["ssl_handshake_timeout"] = HEAD_S
    kwargs["backlog"] = _ACCEPTED_AT_ONCE
    server: asyncio.Server = await create(lambda: Connection(protocol_factory(), connections), *args, **kwargs)
    for listener in server.sockets:
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.listen(_BACKLOG)
    return server

"""Limits of the number of connections, and of the time that one may stay silent.

uvicorn accepts every connection and waits for the head of a request without limit: a few hundred silent connections
use up all the files that the process may have open, and then nobody is served. Here

- a connection that sends no complete head of a request in time is closed, as is one whose client does not read,
- the number of connections always leaves a reserve of files for the server's own work, and
- each address has a limit of its own.

When there is no room for a new connection, some that wait for their client are closed: those of the address with most
connections, longest waiting first. A connection whose request is being processed stays. If there are no others, the new
one is closed.

uvicorn is started before the app is loaded, so this replaces the running event loop's ``create_server``.
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
"""Upper limit, however many files may be open."""
_RESERVED_FILES = 256
"""Open files for everything else: uploads, results, decoders, the DICOMweb server; at most a quarter of the limit."""
_MAX_FILES = 1 << 16

_ACCEPTED_AT_ONCE = 16
"""asyncio accepts as many as the backlog holds before it handles the first of them."""
_BACKLOG = 2048
_POLL_EVERY_S = 1.0

HEAD_S = 20.0
"""Seconds for the head of the next request to arrive."""
STALLED_S = 120.0
"""Seconds for a client to read more of its response, or to finish an upload that was refused."""


def raise_file_limit() -> None:
    """Raise the limit of open files, also of processes started from here, as far as the system administrator allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def room_for_connections() -> int:
    """Return how many connections leave a reserve of the files that this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    return max(_ACCEPTED_AT_ONCE, min(MAX_CONNECTIONS, limit - in_use - min(_RESERVED_FILES, limit // 4)))


def trusted_proxies() -> Container[str]:
    """Return the addresses whose ``X-Forwarded-For`` uvicorn trusts: single ones, networks or, with ``*``, all."""
    trusted = ProxyHeadersMiddleware(cast(Any, None), os.environ.get("FORWARDED_ALLOW_IPS", "")).trusted_hosts
    return cast(Container[str], trusted)


class Connection(asyncio.Protocol):
    """One connection: uvicorn's protocol, and since when it has waited for its client.

    Args:
        protocol: Receives the incoming data.
        connections: All connections.
    """

    def __init__(self, protocol: asyncio.Protocol, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections
        self._request: object = None
        self._unsent = 0
        self._is_open = False
        self.address = ""
        self.since = time.monotonic()
        """Monotonic seconds: when the client last received its response, or read some of it."""
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the accepted connection, or close it if there is no room."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._connections.add(self):
            self.transport.abort()
            return
        self._is_open = True
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the closed connection."""
        self._connections.remove(self)
        if self._is_open:
            self._protocol.connection_lost(exc)

    @property
    def wait_until(self) -> int | None:
        """What it waits for: 0 the next request, 1 that the client reads, 2 the request's body; None: nothing."""
        request: Any = getattr(self._protocol, "cycle", None)  # uvicorn's name for a request and its response
        if request is None or request.response_complete:
            return 0
        if self.transport.get_write_buffer_size():
            return 1
        return 2 if request.more_body else None

    def look(self, now: float) -> float | None:
        """Record progress since the last check; returns the monotonic time at which the wait ends, None for no limit.

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
        is_sending = request is not None and request.more_body  # the rest of an upload that was refused
        return self.since + (STALLED_S if wait_until == 1 or is_sending else HEAD_S)


class Connections:
    """All connections of the server. Used only on the event loop.

    Args:
        limit: Maximum number of connections.
        limit_of_address: Maximum number from one address.
        unlimited: Addresses without that limit; those of this machine never have it.
    """

    def __init__(self, limit: int, limit_of_address: int, unlimited: Container[str] = ()) -> None:
        self.limit = limit
        self._limit_of_address = limit_of_address
        self._unlimited = unlimited
        self._all: set[Connection] = set()
        self._of_address: Counter[str] = Counter()

    def add(self, connection: Connection) -> bool:
        """Add a connection and return True, if there is or can be made room for it."""
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
        """Remove a connection that is closed or about to be."""
        if connection in self._all:
            self._all.remove(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def close_silent(self, now: float) -> None:
        """Close connections whose client has kept the server waiting for too long; ``now`` is in monotonic seconds."""
        for connection in list(self._all):
            ends = connection.look(now)
            if connection.transport.is_closing() and not connection.transport.get_write_buffer_size():
                self.remove(connection)
            elif ends is not None and now > ends:
                self._close(connection)

    def _make_room(self, connections: Collection[Connection]) -> None:
        """Close some connections that wait for their client; several at once, as choosing has to go through all."""
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
        limit_of_address: As in :class:`Connections`; does not apply to proxies that uvicorn trusts.
    """
    connections = Connections(room_for_connections(), limit_of_address, trusted_proxies())
    watch_connections(asyncio.get_running_loop(), connections)


def watch_connections(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    """Bound the connections of servers that are made from now on, and close silent ones.

    Args:
        loop: The running event loop; one that is not asyncio's own may be impossible to change, which is logged.
        connections: Registers and bounds them.
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
    """Create a server as the event loop does, but accept few connections at once; the others wait in the kernel."""
    if kwargs.get("ssl"):
        kwargs["ssl_handshake_timeout"] = HEAD_S
    kwargs["backlog"] = _ACCEPTED_AT_ONCE
    server: asyncio.Server = await create(lambda: Connection(protocol_factory(), connections), *args, **kwargs)
    for listener in server.sockets:
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.listen(_BACKLOG)
    return server

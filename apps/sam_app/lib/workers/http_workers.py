"""Workers that answer by HTTP, see :mod:`lib.workers.wire`: at one address or several, of which any reaches all."""

import json
import logging
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from urllib3.util import wait_for_read

from lib.base.threads import start_periodic
from lib.sam.runtimes.remote import (
    EncodeOrder,
    PendingEncode,
    WorkerDiedError,
    Workers,
    WorkersRefusedError,
    WorkersUnavailableError,
)
from lib.workers.wire import DEMAND, FRONT, PATH, STATUS_PATH, authorization, pack_request, unpack_levels

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LOOK_S = 3.0
"""Time within which an address must tell how many workers there are."""

_STALE_S = 10.0
"""Age from which the last known number of workers says nothing: whoever tells it does not answer."""

_CALLS_AT_ONCE = 512


class HttpWorkers(Workers):
    """Workers at some addresses; asks every second how many there are.

    Args:
        token: What servers and workers share.
        addresses: ``http://host:port`` or ``https://host:port``; :attr:`addresses` can be replaced later.
    """

    def __init__(self, token: str, addresses: Sequence[str] = ()) -> None:
        super().__init__(0)
        self.addresses = list(addresses)
        self._name = secrets.token_hex(8)
        self._authorization = {"Authorization": authorization(token)}
        self._answering: dict[str, float] = {}
        self._counts_told: dict[str, int] = {}
        self._told_at = time.monotonic() - _STALE_S
        self._turn = 0
        self._idle: dict[str, deque[HTTPConnection]] = {}
        self._calls = ThreadPoolExecutor(_CALLS_AT_ONCE, "worker-call")
        self._looks = ThreadPoolExecutor(16, "worker-look")
        self._last_fault = ""

    def watch(self) -> None:
        """Begin to ask how many there are."""
        self._look()
        start_periodic("workers", self._look, _LOOK_EVERY_S)

    @property
    def running(self) -> int:
        """See :class:`~lib.sam.runtimes.remote.Workers`."""
        return self._counts_told.get("running", 0) if time.monotonic() - self._told_at < _STALE_S else 0

    @property
    def capacity(self) -> int:
        """See :class:`~lib.sam.runtimes.remote.Workers`."""
        told = self._counts_told
        return max(self.running, told["most"]) if self.running and told["most"] > told["least"] else self.running

    @property
    def elsewhere(self) -> int:
        """See :class:`~lib.sam.runtimes.remote.Workers`; as of a second ago."""
        return self._counts_told.get("elsewhere", 0)

    def begin(self, order: EncodeOrder) -> PendingEncode:
        """See :class:`~lib.sam.runtimes.remote.Workers`."""
        headers, body = pack_request(order.model, order.checkpoint_sha256, order.runtime, order.image)
        return _Call(self, self._next_address(), {**self._authorization, **headers}, body, self._calls)

    def answers(self, address: str) -> bool:
        """Return whether an address answers."""
        return address in self._answering

    def _next_address(self) -> str:
        addresses = [address for address in self.addresses if self.answers(address)] or self.addresses
        if not addresses:
            raise WorkersUnavailableError("the workers that encode images are being started, try again in a minute")
        self._turn += 1
        return addresses[self._turn % len(addresses)]

    def _look(self) -> None:
        """Ask every address how many workers there are."""
        addresses = list(self.addresses)
        now = time.monotonic()
        try:
            told = dict(zip(addresses, self._looks.map(self._ask_status, addresses), strict=True))
        except RuntimeError:  # the interpreter is ending
            return
        reached = {address: now for address, answer in told.items() if not isinstance(answer, OSError)}
        self._answering = {
            address: at
            for address, at in {**self._answering, **reached}.items()
            if address in told and (address in reached or now - at < _LOOK_S)
        }
        answers = [answer for answer in told.values() if isinstance(answer, dict)]
        if answers:
            self._counts_told, self._told_at = answers[0], now
            self.wanted = int(answers[0]["wanted"])
            self._fault("")
        elif not self._answering:
            self._told_at = now - _STALE_S  # it is certain that nobody is there
            if addresses and self._counts_told:
                self._fault("no worker encodes, as nothing answers where they were")
        else:
            self._fault(next((str(answer) for answer in told.values() if isinstance(answer, ValueError)), ""))

    def _ask_status(self, address: str) -> dict[str, int] | OSError | ValueError:
        """Return the answer of :class:`lib.workers.application.Status`, or why there is none."""
        connection = _connection(address, _LOOK_S)
        try:
            told_of_us = {FRONT: self._name, DEMAND: str(self.demand())}
            connection.request("GET", STATUS_PATH, headers={**self._authorization, **told_of_us})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                return ValueError(f"workers answer {response.status}: {_text(content)}")
            told: dict[str, Any] = json.loads(content)
            return {key: int(told[key]) for key in ("running", "wanted", "least", "most", "elsewhere")}
        except HTTPException as error:
            return OSError(type(error).__name__)
        except OSError as error:
            return error
        except (ValueError, KeyError, TypeError):
            return ValueError("what answers is no worker of this app")
        finally:
            connection.close()

    def _fault(self, fault: str) -> None:
        """Log what is wrong, once for each time that it becomes so."""
        if fault and fault != self._last_fault:
            logger.error("%s", fault[:1].upper() + fault[1:])
        elif self._last_fault and not fault:
            logger.info("Workers answer again: %d of %d are there", self.running, self.wanted)
        self._last_fault = fault

    def take(self, address: str) -> HTTPConnection:
        """Return an open connection to an address, or one that opens at its first request."""
        idle = self._idle.setdefault(address, deque())
        with suppress(IndexError):
            while True:
                connection = idle.pop()
                if connection.sock is not None and not wait_for_read(connection.sock, 0):
                    return connection
                connection.close()  # the other side has closed it
        return _connection(address, None)

    def give_back(self, address: str, connection: HTTPConnection) -> None:
        """Keep a connection, whose answer was read, for another request."""
        self._idle[address].append(connection)


class _Call:
    """A request to encode an image; runs in a thread of its own."""

    def __init__(
        self, workers: HttpWorkers, address: str, headers: dict[str, str], body: bytes, threads: ThreadPoolExecutor
    ) -> None:
        self._workers, self._address = workers, address
        self._connection: HTTPConnection | None = None
        self._is_cancelled = threading.Event()
        self._future: Future[Sequence[np.ndarray]] = threads.submit(self._ask, headers, body)

    def result(self, seconds: float) -> Sequence[np.ndarray] | None:
        """See :class:`~lib.sam.runtimes.remote.PendingEncode`."""
        try:
            return self._future.result(seconds)
        except TimeoutError:
            if self._workers.answers(self._address):
                return None
            self.cancel()
            raise WorkerDiedError("its machine does not answer") from None

    def cancel(self) -> None:
        """See :class:`~lib.sam.runtimes.remote.PendingEncode`."""
        self._is_cancelled.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(self, headers: dict[str, str], body: bytes) -> Sequence[np.ndarray]:
        self._connection = connection = self._workers.take(self._address)
        try:
            if connection.sock is None:
                connection.connect()
            if self._is_cancelled.is_set():
                raise ConnectionAbortedError("cancelled")
            connection.request("POST", PATH, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            raise WorkerDiedError(type(error).__name__) from error
        self._connection = None
        self._workers.give_back(self._address, connection)
        return _levels(response, content)


def _levels(response: HTTPResponse, content: bytes) -> Sequence[np.ndarray]:
    if response.status == 200:
        return unpack_levels(dict(response.headers.items()), content)
    if response.status == 422:
        raise RuntimeError(f"a worker {_text(content)}")
    if response.status < 500:
        raise WorkersRefusedError(f"a worker {_text(content)}")
    raise WorkerDiedError(f"the answer is {response.status}")


def _text(content: bytes) -> str:
    return content[:500].decode("utf-8", "replace")


def _connection(address: str, seconds: float | None) -> HTTPConnection:
    parts = urlsplit(address)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(parts.hostname, parts.port, timeout=seconds, context=context)
    return HTTPConnection(parts.hostname, parts.port, timeout=seconds)

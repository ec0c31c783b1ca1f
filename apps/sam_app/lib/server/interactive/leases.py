"""Leases: which clients have a session, and until when.

A lease has two clocks. *Alive* is a client that has sent anything, its heartbeats among it, lately; *used* is one whose
user has done something within a longer time. If either runs out the lease ends, and so does its session. Ended leases
are looked for at each look-up, and from time to time.

Concurrency: one lock guards the table; it is never held while a session is made or ended.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lib.server.http.errors import LeaseGoneError, NoLeaseLeftError

SWEEP_EVERY_S = 15.0


class Ending(Protocol):
    """A session."""

    def end(self) -> None:
        """End it: nobody can ask for it again."""


S = TypeVar("S", bound=Ending)


@dataclass(eq=False)
class _Lease(Generic[S]):
    owner: str
    session: S
    heard: float
    used: float


class Leases(Generic[S]):
    """Table of the leases. Thread-safe.

    Args:
        limit: Maximum number of leases.
        idle_s: Seconds for which one may not be used.
        liveness_s: Seconds for which its client may not be heard of.
        option: By which the operator sets the limit.
        now: Clock in seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        idle_s: float,
        liveness_s: float = math.inf,
        option: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._idle_s, self._liveness_s = idle_s, liveness_s
        self._option = f" ({option})" if option else ""
        self._now = now
        self._leases: dict[str, _Lease[S]] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The current number of leases."""
        return len(self._leases)

    def claim(self, owner: str, make: Callable[[str], S]) -> str:
        """Make a session and return the token of its lease.

        Args:
            owner: The user, who alone can use it.
            make: Makes the session, from the token.

        Raises:
            NoLeaseLeftError: If there are as many leases as allowed.
        """
        self.sweep()
        token = secrets.token_hex(16)
        session = make(token)
        with self._lock:
            if len(self._leases) < self.limit:
                now = self._now()
                self._leases[token] = _Lease(owner, session, heard=now, used=now)
                return token
        session.end()
        raise NoLeaseLeftError(f"all {self.limit} sessions are in use{self._option}; try again later")

    def session(self, token: str, owner: str, *, is_use: bool) -> S:
        """Return the session of a lease.

        Args:
            token: The lease's.
            owner: Who asks.
            is_use: Whether the user does something, which puts off the end of an idle lease; else it is only alive.

        Raises:
            LeaseGoneError: If there is no such lease of this user, or no longer.
        """
        self.sweep()
        with self._lock:
            lease, now = self._find(token, owner), self._now()
            lease.heard = now
            if is_use:
                lease.used = now
            return lease.session

    def remaining(self, token: str, owner: str) -> float:
        """Return the seconds until a lease is idle for too long, which this does not put off.

        Raises:
            LeaseGoneError: As for :meth:`session`.
        """
        self.sweep()
        with self._lock:
            return self._remaining(self._find(token, owner), self._now())

    def release(self, token: str, owner: str) -> None:
        """End a lease; does nothing if there is no such one of this user."""
        with self._lock:
            lease = self._leases.get(token)
            if lease is None or lease.owner != owner:
                return
            del self._leases[token]
        lease.session.end()

    def end_least_used(self, may_end: Callable[[S], bool]) -> bool:
        """End the lease that was not used for longest; return whether there was one.

        Args:
            may_end: Whether a session may be ended; of the others none is.
        """
        with self._lock:
            found = [(lease.used, token) for token, lease in self._leases.items() if may_end(lease.session)]
            lease = self._leases.pop(min(found)[1]) if found else None
        if lease is None:
            return False
        lease.session.end()
        return True

    def sweep(self) -> None:
        """End the leases whose time is up."""
        with self._lock:
            now = self._now()
            over = {token: lease for token, lease in self._leases.items() if self._is_over(lease, now)}
            for token in over:
                del self._leases[token]
        for lease in over.values():
            lease.session.end()

    def _remaining(self, lease: _Lease[S], now: float) -> float:
        """Return the seconds until a lease is idle for too long."""
        return max(0.0, lease.used + self._idle_s - now)

    def _is_over(self, lease: _Lease[S], now: float) -> bool:
        return now - lease.heard >= self._liveness_s or self._remaining(lease, now) == 0

    def _find(self, token: str, owner: str) -> _Lease[S]:
        """Return a lease; call with the lock held."""
        lease = self._leases.get(token)
        if lease is None or lease.owner != owner:
            raise LeaseGoneError("there is no such session, or no longer: connect again")
        return lease

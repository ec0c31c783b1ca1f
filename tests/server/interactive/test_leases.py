from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from lib.server.http.errors import LeaseGoneError, NoLeaseLeftError
from lib.server.interactive.leases import Leases

LIVENESS_S, IDLE_S = 60.0, 1800.0


@dataclass
class Time:
    """A clock that is set by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Session:
    token: str
    ends: list[str] = field(default_factory=list)

    def end(self) -> None:
        self.ends.append(self.token)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def leases(time) -> Leases[Session]:
    return Leases(2, idle_s=IDLE_S, liveness_s=LIVENESS_S, option="max_sessions", now=time)


def test_a_lease_is_its_owner_s_alone(leases):
    token = leases.claim("a", Session)
    assert leases.session(token, "a", is_use=True).token == token
    for ask in (
        lambda: leases.session(token, "b", is_use=True),
        lambda: leases.remaining(token, "b"),
        lambda: leases.session("", "a", is_use=False),
    ):
        with pytest.raises(LeaseGoneError, match="connect again"):
            ask()
    leases.release(token, "b")
    assert leases.count == 1


def test_there_are_no_more_than_the_limit_and_one_that_is_released_is_free(leases):
    first, second = leases.claim("a", Session), leases.claim("a", Session)
    assert first != second
    refused = []
    with pytest.raises(NoLeaseLeftError, match=r"all 2 sessions are in use \(max_sessions\); try again later"):
        leases.claim("b", lambda token: refused.append(Session(token)) or refused[-1])
    assert [session.ends for session in refused] == [[session.token] for session in refused]
    session = leases.session(first, "a", is_use=True)
    leases.release(first, "a")
    leases.release(first, "a")
    assert session.ends == [first]
    with pytest.raises(LeaseGoneError):
        leases.session(first, "a", is_use=False)
    assert leases.claim("b", Session)


def test_a_client_that_is_not_heard_of_loses_its_lease(leases, time):
    token = leases.claim("a", Session)
    session = leases.session(token, "a", is_use=False)
    time.now += LIVENESS_S - 1
    leases.session(token, "a", is_use=False)
    time.now += LIVENESS_S - 1
    assert leases.remaining(token, "a") == IDLE_S - 2 * LIVENESS_S + 2
    time.now += 1  # asking how long it lasts is no sign of life
    leases.sweep()
    assert (session.ends, leases.count) == ([token], 0)


def test_heartbeats_do_not_keep_a_lease_that_nobody_uses(leases, time):
    token = leases.claim("a", Session)
    for _ in range(int(IDLE_S // 50)):
        leases.session(token, "a", is_use=False)
        time.now += 50
    with pytest.raises(LeaseGoneError):
        leases.session(token, "a", is_use=False)


def test_use_puts_the_end_off(leases, time):
    token = leases.claim("a", Session)
    for _ in range(100):
        time.now += 50
        leases.session(token, "a", is_use=True)
    assert leases.remaining(token, "a") == IDLE_S


def test_a_lease_whose_time_is_up_makes_room_for_another(leases, time):
    for _ in range(2):
        leases.claim("a", Session)
    time.now += LIVENESS_S
    assert leases.claim("b", Session) and leases.count == 1


def test_many_at_once_get_no_more_than_there_are():
    leases = Leases(5, idle_s=IDLE_S)

    def claim(_: int) -> bool:
        try:
            return bool(leases.claim("a", Session))
        except NoLeaseLeftError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(200))) == 5


def test_the_least_used_makes_room_unless_it_may_not_end(leases, time):
    busy = leases.claim("a", Session)
    sessions = [leases.session(busy, "a", is_use=True)]
    time.now += 1
    idle = leases.claim("b", Session)
    sessions.append(leases.session(idle, "b", is_use=True))
    time.now += 1
    leases.session(idle, "b", is_use=False)
    assert leases.end_least_used(lambda session: session.token != busy)
    assert [session.ends for session in sessions] == [[], [idle]]
    assert not leases.end_least_used(lambda session: session.token != busy)
    assert leases.end_least_used(lambda _: True) and leases.count == 0


def test_of_two_that_are_idle_the_one_used_last_stays(leases, time):
    first, second = leases.claim("a", Session), leases.claim("a", Session)
    time.now += 1
    leases.session(first, "a", is_use=True)
    assert leases.end_least_used(lambda _: True)
    assert leases.session(first, "a", is_use=True).token == first
    with pytest.raises(LeaseGoneError):
        leases.session(second, "a", is_use=True)


def test_without_a_limit_of_liveness_only_use_counts(time):
    leases = Leases(2, idle_s=IDLE_S, now=time)
    token = leases.claim("a", Session)
    time.now += IDLE_S - 1
    assert leases.session(token, "a", is_use=True).token == token
    time.now += IDLE_S
    leases.sweep()
    assert leases.count == 0

import threading
from decimal import Decimal

import pytest

from lib.server.rest import timestamps
from lib.server.rest.timestamps import RetentionClock, TimestampSource, parse_timestamp, print_timestamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1732288000.120000", "1732288000.120000"),
        ("1732288000.12", "1732288000.120000"),
        ("1732288000", "1732288000.000000"),
        ("1732288000.", "1732288000.000000"),
        ("1732288000.1200000001", "1732288000.120000"),
    ],
)
def test_timestamps_are_numbers_not_text(text, seconds):
    assert f"{parse_timestamp(text):.6f}" == seconds


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-1", "1e9", "0x10", "1_0", "1.2.3", "../etc", "١٢", "9" * 13, "1." + "0" * 31, "1\n"]
)
def test_other_texts_are_no_timestamps(text):
    with pytest.raises(ValueError, match="timestamp"):
        parse_timestamp(text)


def test_every_timestamp_survives_json_numbers():
    """A client that reads the number as a double and prints it gets the same result."""
    source = TimestampSource(Decimal(0))
    for _ in range(200):
        timestamp = source.next()
        assert parse_timestamp(repr(float(timestamp))) == timestamp


def test_they_are_printed_as_a_plain_number():
    assert print_timestamp(Decimal("1732288000.120000")) == "1732288000.12"
    assert print_timestamp(Decimal("1732288000.000000")) == "1732288000"


def test_they_increase_also_in_one_microsecond_and_when_the_clock_goes_back(monkeypatch):
    monkeypatch.setattr(timestamps.time, "time_ns", lambda: 1_732_288_000_000_000_000)
    source = TimestampSource(Decimal(0))
    assert [source.next() for _ in range(3)] == [Decimal("1732288000") + Decimal(n).scaleb(-6) for n in range(3)]
    monkeypatch.setattr(timestamps.time, "time_ns", lambda: 1_600_000_000_000_000_000)
    assert source.next() == Decimal("1732288000.000003")
    assert TimestampSource(Decimal("1800000000")).next() == Decimal("1800000000.000001")


def test_they_are_unique_among_threads():
    source = TimestampSource(Decimal(0))
    taken: list[Decimal] = []
    threads = [threading.Thread(target=lambda: taken.extend(source.next() for _ in range(500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(taken)) == 4000


DAY = 86400.0


class Clocks:
    """The machine's clock, and its monotonic one, in days."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.monotonic = 20000.0, 3.0
        monkeypatch.setattr(timestamps.time, "time", lambda: self.wall * DAY)
        monkeypatch.setattr(timestamps.time, "clock_gettime", lambda _: self.monotonic * DAY)

    def days_kept(self, retention: RetentionClock) -> float:
        """How many days before the true time is what is just kept."""
        return (20000 + self.monotonic - 3) - retention.oldest() / DAY


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    return Clocks(monkeypatch)


def made(*days_ago: float) -> list[float]:
    return [(20000 - days) * DAY for days in days_ago]


def test_what_is_older_than_the_limit_goes_as_time_passes(clocks):
    retention = RetentionClock(30 * DAY, made(40, 20, 0))
    for _ in range(3):
        assert clocks.days_kept(retention) == pytest.approx(30)
        clocks.wall, clocks.monotonic = clocks.wall + 5, clocks.monotonic + 5


@pytest.mark.parametrize("jump", [31, 1000, -31])
def test_no_jump_of_the_clock_makes_anything_older(clocks, jump, caplog):
    retention = RetentionClock(30 * DAY, made(20, 0))
    clocks.wall, clocks.monotonic = clocks.wall + jump, clocks.monotonic + 0.01
    for _ in range(3):
        assert clocks.days_kept(retention) >= 30 - 1e-6
    assert caplog.text.count("jumped ahead by 31.0 days") == (1 if jump == 31 else 0)
    clocks.wall = clocks.wall - jump + 0.01
    assert clocks.days_kept(retention) == pytest.approx(30)


@pytest.mark.parametrize("ahead", [31, 25])
def test_a_clock_that_is_ahead_at_the_start_deletes_nothing_for_a_day(clocks, ahead, caplog):
    clocks.wall += ahead
    retention = RetentionClock(30 * DAY, made(20, 10, 6, 1))
    assert retention.oldest() < made(1000)[0] and f"The clock is {ahead + 1}.0 days ahead" in caplog.text
    clocks.wall, clocks.monotonic = clocks.wall + 1.1, clocks.monotonic + 1.1
    assert retention.oldest() / DAY == pytest.approx(20000 + ahead + 1.1 - 30), "it may be right"


def test_a_server_that_was_off_for_some_days_deletes_what_became_too_old(clocks, caplog):
    clocks.wall += 4
    retention = RetentionClock(30 * DAY, made(28, 20, 10, 1))
    assert retention.oldest() > made(28)[0] and not caplog.records


def test_without_a_limit_nothing_is_too_old(clocks):
    assert RetentionClock(0, made(10**4)).oldest() == -float("inf")
    assert RetentionClock(30 * DAY, []).oldest() == pytest.approx(made(30)[0])


def test_servers_that_share_a_folder_never_make_the_same_timestamp():
    sources = [TimestampSource(Decimal(0), front) for front in (0, 1, 99)]
    made = [[source.next() for _ in range(500)] for source in sources]
    for front, own in zip((0, 1, 99), made, strict=True):
        assert own == sorted(set(own))
        assert {int(one.scaleb(6)) % 100 for one in own} == {front}
    after = TimestampSource(Decimal("1800000000.000199"), 99).next()
    assert after == Decimal("1800000000.000299")

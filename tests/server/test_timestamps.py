import threading
from decimal import Decimal

import pytest

from lib.server import timestamps
from lib.server.timestamps import TimestampSource, parse_timestamp, print_timestamp


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

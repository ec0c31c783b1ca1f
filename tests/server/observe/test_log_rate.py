"""Lines of a log that come too often."""

from __future__ import annotations

import logging

import pytest

from lib.server.observe import log_hygiene
from lib.server.observe.log_hygiene import LINES, PERIOD_S, CleanFormatter, RateLimit


class Lines(logging.Handler):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(log_hygiene.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def handler() -> Lines:
    made = Lines()
    made.setFormatter(CleanFormatter(logging.Formatter("%(message)s")))
    made.addFilter(RateLimit())
    return made


def write(handler: Lines, line: int, name: str = "lib.server.x") -> None:
    handler.handle(logging.makeLogRecord({"name": name, "msg": "said %d", "args": (line,), "lineno": line}))


def test_a_line_of_code_that_writes_too_often_is_counted(handler, clock):
    for _ in range(LINES + 50):
        write(handler, 1)
    write(handler, 2)
    assert handler.lines == ["said 1"] * LINES + ["said 2"]
    clock[0] += PERIOD_S
    write(handler, 1)
    write(handler, 1)
    assert handler.lines[-2:] == ["said 1 (50 more from this line of code were omitted before)", "said 1"]


def test_what_comes_now_and_then_is_written_whole(handler, clock):
    for _ in range(2 * LINES):
        write(handler, 1)
        clock[0] += PERIOD_S / 50
    assert handler.lines == ["said 1"] * (2 * LINES)


def test_the_access_log_is_what_was_asked_for(handler, clock):
    for _ in range(2 * LINES):
        write(handler, 1, "uvicorn.access")
    assert len(handler.lines) == 2 * LINES

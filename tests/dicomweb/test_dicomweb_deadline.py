"""An archive whose bytes come one by one does not keep a request longer than it may take."""

from __future__ import annotations

import threading
import time

import pytest

from lib.base.clock import ClientDisconnectedError, Clock, TimeLimitError, use_clock
from lib.dicomweb.connection import DicomWebSession, DicomWebUnreachableError, pieces
from support.dicomweb_stand_in import Answer, running_stand_in

DRIPPING = Answer(body=[(0.1, b" ")] * 100)


@pytest.fixture
def archive():
    with running_stand_in() as stand_in:
        stand_in.answer = lambda path: DRIPPING
        yield stand_in


@pytest.mark.parametrize("streamed", [False, True])
def test_the_time_of_the_request_bounds_the_whole_answer(archive, streamed):
    started = time.monotonic()
    with DicomWebSession(None, 30) as session, use_clock(Clock(0.5)), pytest.raises(TimeLimitError):
        answer = session.request("GET", archive.url + "/series", stream=streamed)
        list(pieces(answer))
    assert time.monotonic() - started < 3


def test_the_fetch_ends_when_the_client_leaves(archive):
    clock = Clock(60)
    threading.Timer(0.3, clock.cancel).start()
    started = time.monotonic()
    with DicomWebSession(None, 30) as session, use_clock(clock), pytest.raises(ClientDisconnectedError):
        session.request("GET", archive.url + "/series")
    assert time.monotonic() - started < 3


def test_an_archive_that_stops_is_told_as_such(archive):
    archive.answer = lambda path: Answer(body=[(0, b"["), (20, b"]")])
    with DicomWebSession(None, 0.3) as session, pytest.raises(DicomWebUnreachableError, match="in time"):
        session.request("GET", archive.url + "/series")


def test_a_whole_answer_is_as_before(archive):
    archive.answer = lambda path: Answer()
    with DicomWebSession(None, 5) as session:
        assert session.request("GET", archive.url + "/series").json()[0]["00080060"]["Value"] == ["CT"]

"""Which series are listed, how fresh the lists are, and what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lib.dicomweb.connection import DicomWebSession
from lib.dicomweb.lists import SeriesLists
from lib.dicomweb.search import ArchiveClient
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in


def found(series: str, modality: str | None) -> dict:
    attributes = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": {"vr": "UI", "Value": [series]}}
    return attributes | ({"00080060": {"vr": "CS", "Value": [modality]}} if modality else {})


@pytest.fixture
def archive() -> Iterator[StandIn]:
    """It has five series, of which one is a segmentation of ``1.2.1``."""
    every = [found("1.2.1", "CT"), found("1.2.2", "MR"), found("1.2.3", "SR"), found("1.2.4", None)]
    segmentation = found("1.2.5", "SEG")
    source = {"vr": "SQ", "Value": [{"0020000E": {"vr": "UI", "Value": ["1.2.1"]}}]}

    def answer(path: str) -> Answer:
        if "metadata" in path:
            body = [segmentation | {"00081115": source}]
        elif "Modality=SEG" in path:
            body = [segmentation]
        elif "Modality=MR" in path:
            body = [found("1.2.2", "MR")]
        else:
            body = [*every, segmentation]
        return Answer(body=[(0, json.dumps(body).encode())])

    with running_stand_in() as running:
        running.answer = answer
        yield running


def lists(archive: StandIn, search_filter: dict | None = None, max_age: float = 60) -> SeriesLists:
    client = ArchiveClient(archive.url, session=DicomWebSession(None, 5))
    return SeriesLists(client, search_filter or {}, max_age)


def searches(archive: StandIn) -> list[str]:
    """Each of which may go on with a next page."""
    return [path for _, path, _ in archive.requests if "offset" not in path]


def test_series_of_every_modality_that_has_images(archive):
    assert lists(archive).images() == ["1.2.1", "1.2.2", "1.2.4"]


def test_an_operator_s_filter_holds(archive):
    assert lists(archive, {"Modality": "MR"}).images() == ["1.2.2"]


def test_a_list_is_asked_for_again_once_it_is_old(archive):
    fresh = lists(archive, max_age=0.2)
    assert fresh.images() == fresh.images() and len(searches(archive)) == 1
    time.sleep(0.3)
    fresh.images()
    assert len(searches(archive)) == 2


def test_without_an_age_it_is_asked_for_each_time(archive):
    each = lists(archive, max_age=0)
    assert each.images() == each.images() and len(searches(archive)) == 2
    assert each.labelled() == ["1.2.1"]


def test_a_segmentation_is_read_once_however_often_lists_are_made(archive):
    often = lists(archive)
    for _ in range(3):
        assert often.labelled() == ["1.2.1"]
        often.forget_labelled()
    paths = searches(archive)
    assert sum("metadata" in path for path in paths) == 1
    assert sum("Modality=SEG" in path for path in paths) == 3

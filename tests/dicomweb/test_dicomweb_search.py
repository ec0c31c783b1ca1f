"""What is found on archives that search in their own way."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lib.dicomweb.connection import (
    DicomWebError,
    DicomWebSession,
    DicomWebStatusError,
    DicomWebUnreachableError,
    SeriesGoneError,
)
from lib.dicomweb.search import ArchiveClient, first_value
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in
from support.small_archive import HeldSeries, SmallArchive, uid_of


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as running:
        yield running


@pytest.fixture
def archive(stand_in) -> SmallArchive:
    archive = SmallArchive()
    for _ in range(5):
        archive.serve(stand_in)
    return archive


@pytest.fixture
def wanted(archive) -> HeldSeries:
    return archive.held[3]


@pytest.fixture
def client(stand_in) -> ArchiveClient:
    client = ArchiveClient(stand_in.url, session=DicomWebSession(None, 2))
    client.set_http_retry_params(retry=False)
    return client


def test_the_series_that_was_asked_for_is_found_among_others(archive, wanted, client):
    archive.heeds_filters = False
    assert client.study_of(wanted.uid) == wanted.study
    with pytest.raises(SeriesGoneError):
        client.study_of("1.2.3")


def test_a_modality_is_filtered_too(archive, wanted, client):
    archive.heeds_filters = False
    wanted.modality = "SEG"
    found = client.search_for_series(search_filters={"Modality": "SEG"})
    assert [first_value(one, "0020000E") for one in found] == [wanted.uid]


@pytest.mark.parametrize("page", [1, 2, 5])
def test_all_pages_are_read(archive, client, page):
    archive.page, archive.heeds_filters = page, False
    assert len(client.search_for_series()) == 5
    assert client.study_of(archive.held[4].uid) == archive.held[4].study
    archive.held[0].arrive(0, 1, 2)
    listed = client.list_instances(archive.held[0].study, archive.held[0].uid)
    assert listed == set(map(uid_of, archive.held[0].instances))


def test_without_a_search_for_series_it_is_looked_for_in_every_study(archive, wanted, client):
    archive.has_series_search = False
    assert client.study_of(wanted.uid) == wanted.study
    assert len(client.search_for_series()) == 5


def test_an_archive_without_any_search_is_named_as_such(archive, wanted, client):
    archive.has_series_search = archive.has_study_search = False
    with pytest.raises(DicomWebError, match=r"cannot be searched .QIDO-RS.: it returned 404 for GET /series"):
        client.study_of(wanted.uid)


def test_a_failing_archive_is_not_one_without_a_search(archive, wanted, client):
    archive.fails = 500
    with pytest.raises(DicomWebStatusError, match="returned status 500"):
        client.study_of(wanted.uid)
    with pytest.raises(DicomWebStatusError, match="returned status 500"):
        client.list_instances(wanted.study, wanted.uid)


def test_the_time_limit_is_that_of_the_settings(stand_in):
    client = ArchiveClient(stand_in.url, session=DicomWebSession(None, 0.3))
    client.set_http_retry_params(retry=False)
    stand_in.answer = lambda path: Answer(body=[(5, b"[]")])
    begun = time.monotonic()
    with pytest.raises(DicomWebUnreachableError):
        client.search_for_series()
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("status", [204, 200])
def test_no_content_is_nothing_found(stand_in, client, status):
    stand_in.answer = lambda path: Answer(status, [(0, b"")], {"Content-Length": "0"})
    assert client.search_for_series() == []


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b'"text"', b"[1]", b"[[]]"])
def test_what_is_no_dicom_json_is_said_to_be_none(stand_in, wanted, client, body):
    stand_in.answer = lambda path: Answer(body=[(0, body)])
    with pytest.raises(DicomWebError, match="DICOM JSON"):
        client.search_for_series()
    assert client.list_instances(wanted.study, wanted.uid) is None


def test_instances_without_uids_are_no_list(stand_in, wanted, client):
    stand_in.answer = lambda path: Answer(body=[(0, b'[{"00080016": {"vr": "UI"}}]')])
    assert client.list_instances(wanted.study, wanted.uid) is None

"""A series is fetched whole, once, for the server's user alone, and anew when it has changed."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from lib.base.scratch import held_folder
from lib.dicomweb import series as dicomweb_series
from lib.dicomweb.connection import (
    DicomWebError,
    DicomWebSession,
    DicomWebStatusError,
    DicomWebUnreachableError,
    SeriesGoneError,
)
from lib.dicomweb.retrieve import is_uid
from lib.dicomweb.search import ArchiveClient
from lib.dicomweb.series import SeriesFolders, token_of_instances
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in
from support.small_archive import QUOTED, HeldSeries, SmallArchive, instance, uid_of


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as running:
        yield running


@pytest.fixture
def archive() -> SmallArchive:
    return SmallArchive()


@pytest.fixture
def series(archive, stand_in) -> HeldSeries:
    held = archive.serve(stand_in)
    held.arrive(3, 4, 5)
    return held


@pytest.fixture
def folders(stand_in, tmp_path) -> SeriesFolders:
    """They are compared each time."""
    return folders_of(stand_in, tmp_path, max_age=0)


def folders_of(stand_in: StandIn, root: Path, **options) -> SeriesFolders:
    client = ArchiveClient(stand_in.url, session=DicomWebSession(None, 2))
    client.set_http_retry_params(retry=False)
    return SeriesFolders(client, root, **options)


def uids(series: HeldSeries) -> set[str]:
    return set(map(uid_of, series.instances))


def fetches(stand_in: StandIn) -> int:
    return sum("/series/" in path and path.count("/") == 5 for _, path, _ in stand_in.requests)


def test_it_comes_as_it_is_stored_byte_for_byte(stand_in, folders, series):
    copy = folders.get(series.uid)
    assert copy.instances == uids(series)
    assert {file.read_bytes() for file in copy.folder.iterdir()} == set(series.instances)
    assert "transfer-syntax=*" in stand_in.requests[-1][2]["accept"]


def test_two_at_the_same_time_fetch_it_once(stand_in, folders, series):
    with ThreadPoolExecutor(4) as pool:
        assert len({copy.folder for copy in pool.map(folders.get, [series.uid] * 4)}) == 1
    assert fetches(stand_in) == 1


def test_what_another_process_fetched_meanwhile_is_taken(stand_in, folders, series, tmp_path):
    theirs = folders_of(stand_in, tmp_path).get(series.uid)
    mine = folders.get(series.uid)
    assert mine.folder == theirs.folder and fetches(stand_in) == 1
    assert [path.name for path in tmp_path.iterdir()] == [series.uid]


class TestAChangedSeries:
    def test_slices_that_arrive_later_are_fetched(self, folders, series):
        first = folders.get(series.uid)
        series.arrive(0, 1, 2)
        second = folders.get(series.uid)
        assert second.version != first.version and second.instances == uids(series)
        assert first.folder.is_dir(), "a request may still read it"

    def test_so_are_those_that_replace_others_of_the_same_number(self, folders, series):
        first = folders.get(series.uid)
        series.instances[1] = instance(series.study, series.uid, 4, brightness=50)
        assert folders.get(series.uid).instances == uids(series) != first.instances

    def test_what_was_deleted_is_gone(self, folders, series):
        folders.get(series.uid)
        del series.instances[0]
        assert len(folders.get(series.uid).instances) == 2

    def test_an_etag_tells_of_an_instance_that_kept_its_uid(self, archive, folders, series):
        archive.etags = True
        first = folders.get(series.uid)
        series.instances[1] = instance(series.study, series.uid, 4, brightness=50, uid=uid_of(series.instances[1]))
        second = folders.get(series.uid)
        assert second.instances == first.instances and second.version != first.version

    def test_without_a_list_the_number_of_instances_tells(self, archive, stand_in, folders, series):
        archive.has_instance_search = False
        folders.get(series.uid)
        folders.get(series.uid)
        assert fetches(stand_in) == 1
        series.arrive(6)
        assert len(folders.get(series.uid).instances) == 4

    def test_without_either_it_is_fetched_again_and_the_same_is_the_same(self, archive, stand_in, folders, series):
        archive.has_instance_search = archive.has_counts = False
        first = folders.get(series.uid)
        assert folders.get(series.uid, anew=True) == first and fetches(stand_in) == 2
        series.arrive(6)
        assert folders.get(series.uid, anew=True).version != first.version

    def test_a_series_that_is_moved_to_another_study_is_found_there(self, folders, series):
        folders.get(series.uid)
        series.study = "1.2.3.999"
        series.arrive(6)
        assert len(folders.get(series.uid).instances) == 4

    def test_only_the_version_before_stays(self, folders, series, tmp_path):
        versions = []
        for k in (6, 7, 8):
            series.arrive(k)
            versions.append(folders.get(series.uid).folder)
        assert set((tmp_path / series.uid).iterdir()) == set(versions[1:])

    def test_after_a_restart_the_newest_is_compared(self, stand_in, folders, series, tmp_path):
        folders.get(series.uid)
        series.arrive(6)
        newest = folders.get(series.uid)
        again = folders_of(stand_in, tmp_path)
        assert again.find(series.uid) == newest and again.get(series.uid) == newest
        assert fetches(stand_in) == 2

    def test_files_that_an_earlier_server_left_are_not_taken_for_it(self, folders, series, tmp_path):
        (tmp_path / series.uid).mkdir()
        (tmp_path / series.uid / "1.2.3.dcm").touch()
        assert folders.get(series.uid).instances == uids(series)
        assert not (tmp_path / series.uid / "1.2.3.dcm").exists()

    def test_one_that_is_gone_is_forgotten(self, archive, folders, series, tmp_path):
        folders.get(series.uid)
        archive.held.clear()
        with pytest.raises(SeriesGoneError, match="no longer has"):
            folders.get(series.uid)
        assert folders.find(series.uid) is None and not folders.is_known(series.uid)


class TestHowOftenItIsCompared:
    @pytest.fixture
    def folders(self, stand_in, tmp_path) -> SeriesFolders:
        return folders_of(stand_in, tmp_path)

    def test_what_has_settled_is_trusted_for_a_while(self, stand_in, series, tmp_path):
        folders = folders_of(stand_in, tmp_path, max_age=0.4)
        settle(folders.get(series.uid).folder)
        folders.get(series.uid, anew=True)
        asked = len(stand_in.requests)
        folders.get(series.uid)
        assert len(stand_in.requests) == asked
        series.arrive(6)
        time.sleep(0.5)
        assert len(folders.get(series.uid).instances) == 4

    def test_who_opens_it_or_connects_gets_it_as_it_is(self, folders, series):
        settle(folders.get(series.uid).folder)
        folders.get(series.uid, anew=True)
        series.arrive(6)
        assert len(folders.get(series.uid).instances) == 3
        assert len(folders.get(series.uid, anew=True).instances) == 4
        settle(folders.get(series.uid).folder)
        folders.get(series.uid, anew=True)
        series.arrive(7)
        folders.expire_all()
        assert len(folders.get(series.uid).instances) == 5

    def test_comparing_takes_a_small_share_of_the_time(self, stand_in, folders, series, monkeypatch):
        folders.get(series.uid)
        monkeypatch.setattr(dicomweb_series, "_MAX_COMPARING_SHARE", 1e-6)
        folders.get(series.uid)
        asked = len(stand_in.requests)
        folders.get(series.uid)
        assert len(stand_in.requests) == asked

    @pytest.mark.parametrize("status", [500, 503])
    def test_without_an_answer_it_is_for_those_who_know_it(self, archive, folders, series, status):
        copy = folders.get(series.uid)
        folders.expire_all()
        archive.fails = status
        with pytest.raises(DicomWebStatusError):
            folders.get(series.uid)
        assert folders.get(series.uid, is_known=True) == copy
        with pytest.raises(DicomWebStatusError):
            folders.get(series.uid, anew=True)


def settle(folder: Path) -> None:
    """Make a copy look as if it had been as it is for an hour."""
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))


class TestHalfAnAnswer:
    """Nothing of it stays, and the next request gets the whole."""

    @pytest.fixture(autouse=True)
    def nothing_stays(self, archive, folders, series, tmp_path):
        yield
        assert not list(tmp_path.rglob("*.dcm")) and folders.find(series.uid) is None
        archive.closes, archive.withholds, archive.fails = b"--=_x--", 0, None
        assert len(folders.get(series.uid).instances) == 3

    def test_one_that_breaks_off(self, archive, stand_in, folders, series):
        answered = stand_in.answer

        def cut(path: str) -> Answer:
            answer = answered(path)
            if answer.headers["Content-Type"] == QUOTED:
                length = sum(len(piece) for _, piece in answer.body)
                answer.headers = {**answer.headers, "Content-Length": str(length)}
                answer.body = [(0, answer.body[0][1][:-5000])]
            return answer

        stand_in.answer = cut
        with pytest.raises(DicomWebUnreachableError, match="cannot be reached"):
            folders.get(series.uid)
        stand_in.answer = answered

    def test_one_that_ends_without_its_boundary(self, archive, folders, series):
        archive.closes = b""
        with pytest.raises(DicomWebError, match="boundary is missing"):
            folders.get(series.uid)

    def test_one_that_lacks_an_instance(self, archive, folders, series):
        archive.withholds = 1
        with pytest.raises(DicomWebError, match="sent 2 instances of the series, without 1 that it lists"):
            folders.get(series.uid)

    def test_one_that_lacks_an_instance_by_its_number(self, archive, folders, series):
        archive.withholds, archive.has_instance_search = 1, False
        with pytest.raises(DicomWebError, match="sent 2 of the 3 instances"):
            folders.get(series.uid)

    def test_one_with_an_instance_of_another_series(self, folders, series):
        series.instances.append(instance(series.study, "1.2.3.4.5", 9))
        with pytest.raises(DicomWebError, match="of another series"):
            folders.get(series.uid)
        series.instances.pop()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../evil", "1.2.3/4", ""])
def test_an_instance_cannot_choose_its_place(archive, folders, series, tmp_path, uid):
    archive.has_instance_search = False
    whole = instance(series.study, series.uid, 0, uid="1.2.3.4.5.6.7.8")
    dataset = pydicom.dcmread(io.BytesIO(whole))
    dataset.SOPInstanceUID = uid
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    series.instances[:] = [buffer.getvalue()]
    with pytest.raises(DicomWebError, match="without a valid SOP Instance UID"):
        folders.get(series.uid)
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "boundary is missing"), (b"--=_x\r\n\r\nno DICOM\r\n--=_x--", "not a series"), (b"?", "not a series")],
)
def test_an_answer_that_is_no_series_is_an_error(stand_in, folders, series, tmp_path, content, said):
    answered = stand_in.answer
    stand_in.answer = lambda path: (
        Answer(body=[(0, content)], headers={"Content-Type": QUOTED})
        if path.endswith(f"/series/{series.uid}")
        else answered(path)
    )
    with pytest.raises(DicomWebError, match=said):
        folders.get(series.uid)
    assert list(tmp_path.iterdir()) == []


def test_what_was_fetched_is_the_server_s_user_s_alone(stand_in, tmp_path):
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(0o755)
    folders_of(stand_in, root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_what_a_killed_process_was_fetching_is_removed_and_what_another_fetches_is_not(stand_in, tmp_path):
    root = tmp_path / "cache" / "archive"
    root.mkdir(parents=True)
    left = root.parent / ".fetching-left"
    (left / "series").mkdir(parents=True)
    (left / "series" / "0.part").write_bytes(b"half of an instance")
    with held_folder(root.parent, ".fetching-") as held:
        folders_of(stand_in, root)
        assert sorted(root.parent.iterdir()) == [held, root]
    assert sorted(root.parent.iterdir()) == [root]


def test_a_series_that_another_process_fetches_at_the_same_time_survives_its_start(stand_in, series, tmp_path):
    root = tmp_path / "cache" / "archive"
    root.mkdir(parents=True)
    folders, record_sent = folders_of(stand_in, root), stand_in.answer

    def start_another(path: str) -> Answer:
        folders_of(stand_in, root)
        return record_sent(path)

    stand_in.answer = start_another
    assert folders.get(series.uid).instances == uids(series)


def test_instances_have_one_name_in_any_order():
    assert token_of_instances(["1.2", "1.3"]) == token_of_instances(["1.3", "1.2"]) != token_of_instances(["1.2"])


class TestWhims:
    """Archives that do not do as PS3.18 says."""

    @pytest.mark.parametrize(
        "content_type",
        [
            "multipart/related; type=application/dicom; boundary==_x",
            'Multipart/Related;boundary="=_x";type="application/dicom"',
            'multipart/related; boundary="=_x"',
            'multipart/mixed; boundary="=_x"; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1',
        ],
    )
    def test_multipart_is_read_however_it_is_written(self, archive, folders, series, content_type):
        archive.content_type = content_type
        assert folders.get(series.uid).instances == uids(series)

    @pytest.mark.parametrize("status", [204, 400, 404, 406, 415])
    def test_an_archive_that_knows_no_any_transfer_syntax(self, archive, stand_in, folders, series, status):
        archive.refuses = lambda accept: status if "transfer-syntax" in accept else None
        assert folders.get(series.uid).instances == uids(series)
        series.arrive(6)
        asked = fetches(stand_in)
        folders.get(series.uid)
        assert fetches(stand_in) == asked + 1, "what it knows is remembered"

    def test_an_archive_that_wants_no_quotes(self, archive, folders, series):
        archive.refuses = lambda accept: 406 if '"' in accept else None
        assert folders.get(series.uid).instances == uids(series)

    def test_an_archive_that_knows_json_by_one_name_only(self, archive, folders, series):
        archive.refuses = lambda accept: (
            406 if accept.startswith("application/") and accept != "application/json" else None
        )
        assert folders.get(series.uid).instances == uids(series)

    @pytest.mark.parametrize("status", [400, 404, 406, 501])
    def test_an_archive_that_hands_out_instances_one_by_one(self, archive, folders, series, status):
        archive.retrieves_series = False
        assert folders.get(series.uid).instances == uids(series)

    def test_a_lone_instance_that_is_not_packed(self, stand_in, folders, series):
        del series.instances[1:]
        answered = stand_in.answer
        stand_in.answer = lambda path: (
            Answer(body=[(0, series.instances[0])], headers={"Content-Type": "application/dicom"})
            if path.endswith(f"/series/{series.uid}")
            else answered(path)
        )
        assert folders.get(series.uid).instances == uids(series)

    def test_206_is_not_the_whole(self, stand_in, folders, series):
        answered = stand_in.answer

        def partial(path: str) -> Answer:
            answer = answered(path)
            answer.status = 206 if path.endswith(f"/series/{series.uid}") else answer.status
            return answer

        stand_in.answer = partial
        with pytest.raises(DicomWebError, match="206"):
            folders.get(series.uid)

    def test_an_archive_that_cannot_be_searched_but_whose_viewer_told_the_study(self, archive, folders, series):
        archive.has_series_search = archive.has_study_search = False
        with pytest.raises(DicomWebError, match=r"cannot be searched.*GET /series and 404 for GET /studies"):
            folders.get(series.uid)
        folders.record_study(series.uid, series.study)
        assert folders.get(series.uid).instances == uids(series)


@pytest.mark.parametrize(
    "uid", ["1.2.3", "1.2.826.01.5", "1.2.03.00", "1.2." + "9" * 80, "LIDC-IDRI-0001", "1.2.abc_d", "1..2.", "0"]
)
def test_what_archives_use_as_uids(uid):
    assert is_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "labels", ".1", "1/2", "1\\2", "1\n", "1 2", "1\u202e2", "1?x=2", "1%2f2", "9" * 129, "۱.۲"]
)
def test_what_is_no_name_of_a_file_or_resource_is_no_uid(uid):
    assert not is_uid(uid)

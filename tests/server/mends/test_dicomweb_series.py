"""A series is fetched whole, once, and for the server's user alone."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.dataset import FileDataset

from lib.server.mends.dicomweb_series import SeriesFolders
from lib.server.mends.dicomweb_session import DicomWebError, DicomWebSession, DicomWebUnreachableError
from support.dicomweb_stand_in import Answer, StandIn, running_stand_in

SERIES = "1.2.3.4"
BOUNDARY = "parts"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as running:
        yield running


@pytest.fixture
def folders(stand_in, tmp_path) -> SeriesFolders:
    client = DICOMwebClientX(stand_in.url, session=DicomWebSession(None, 2))
    client.set_http_retry_params(retry=False)
    return SeriesFolders(client, tmp_path)


def part(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n"
    return head.encode() + buffer.getvalue() + b"\r\n"


@pytest.fixture
def instances(sample) -> list[bytes]:
    """Two instances of a series, as parts of an answer."""
    parts = []
    for number in (1, 2):
        dataset = pydicom.dcmread(sample("MR_small.dcm"))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
        parts.append(part(dataset))
    return parts


def series_answer(pieces: list[tuple[float, bytes]], **headers: str) -> Answer:
    content_type = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    return Answer(body=pieces, headers={"Content-Type": content_type, **headers})


def serve(stand_in: StandIn, answer: Answer) -> None:
    stand_in.answer = lambda path: Answer() if "SeriesInstanceUID=" in path else answer


def test_it_is_asked_for_as_it_is_stored(stand_in, folders, instances):
    serve(stand_in, series_answer([(0, b"".join(instances)), (0, b"--parts--")]))
    folder = folders.get(SERIES)
    assert sorted(path.name for path in folder.iterdir()) == ["1.2.3.4.1.dcm", "1.2.3.4.2.dcm"]
    assert "transfer-syntax=*" in stand_in.requests[-1][2]["accept"]
    asked = len(stand_in.requests)
    assert folders.get(SERIES) == folder and len(stand_in.requests) == asked


def test_two_at_the_same_time_fetch_it_once(stand_in, folders, instances):
    serve(stand_in, series_answer([(0.5, b"".join(instances)), (0, b"--parts--")]))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(folders.get, [SERIES] * 4))) == 1
    assert sum("SeriesInstanceUID=" not in path for _, path, _ in stand_in.requests) == 1


def test_what_another_process_fetched_meanwhile_stays(stand_in, folders, instances, tmp_path):
    def answer(path: str) -> Answer:
        if "SeriesInstanceUID=" in path:
            return Answer()
        (tmp_path / SERIES).mkdir()
        (tmp_path / SERIES / "theirs.dcm").touch()
        return series_answer([(0, b"".join(instances)), (0, b"--parts--")])

    stand_in.answer = answer
    assert [path.name for path in folders.get(SERIES).iterdir()] == ["theirs.dcm"]
    assert [path.name for path in tmp_path.iterdir()] == [SERIES]


def test_part_of_a_series_does_not_stay(stand_in, folders, instances, tmp_path):
    length = str(len(b"".join(instances)) + 9)
    serve(stand_in, series_answer([(0, instances[0])], **{"Content-Length": length}))  # and breaks off
    with pytest.raises(DicomWebUnreachableError, match="cannot be reached"):
        folders.get(SERIES)
    assert list(tmp_path.iterdir()) == [] and not folders.is_there(SERIES)
    serve(stand_in, series_answer([(0, b"".join(instances)), (0, b"--parts--")]))
    assert len(list(folders.get(SERIES).iterdir())) == 2


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../evil", "1.2.3/4", ""])
def test_an_instance_cannot_choose_its_place(stand_in, folders, sample, tmp_path, uid):
    dataset = pydicom.dcmread(sample("MR_small.dcm"))
    dataset.SOPInstanceUID = uid
    content = part(dataset)
    serve(stand_in, series_answer([(0, content), (0, b"--parts--")]))
    with pytest.raises(DicomWebError, match="without a valid SOP Instance UID"):
        folders.get(SERIES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no instance"), (b"--parts\r\n\r\nno DICOM\r\n--parts--", "no series"), (b"?", "no series")],
)
def test_an_answer_that_is_no_series_is_an_error(stand_in, folders, tmp_path, content, said):
    serve(stand_in, series_answer([(0, content)]))
    with pytest.raises(DicomWebError, match=said):
        folders.get(SERIES)
    assert list(tmp_path.iterdir()) == []


def test_a_series_that_is_gone_is_an_error(stand_in, folders):
    stand_in.answer = lambda path: Answer(body=[(0, json.dumps([]).encode())])
    with pytest.raises(DicomWebError, match="no longer has"):
        folders.get(SERIES)


def test_what_was_fetched_is_the_server_s_user_s_alone(stand_in, tmp_path):
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(0o755)
    SeriesFolders(DICOMwebClientX(stand_in.url), root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700

"""What a DICOMweb server must say of a segmentation for it to count as stored."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from lib.dicomweb.connection import DicomWebError, DicomWebSession
from lib.dicomweb.labels import DicomWebLabels
from lib.dicomweb.search import ArchiveClient
from support.dicomweb_stand_in import Answer, running_stand_in

UID = "1.2.3.4"


def segmentation() -> Dataset:
    made = Dataset()
    made.SOPInstanceUID, made.SOPClassUID = UID, SegmentationStorage
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = SegmentationStorage, UID
    return made


def store(kind: str, body: bytes) -> None:
    with running_stand_in() as archive, DicomWebSession(None, 5) as session:
        archive.answer = lambda path: Answer(body=[(0, body)], headers={"Content-Type": kind})
        DicomWebLabels._store(SimpleNamespace(_client=ArchiveClient(archive.url, session=session)), segmentation())


def listed(sequence: str, uid: str = UID) -> bytes:
    answer, item = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID = uid
    setattr(answer, sequence, [item])
    return answer.to_json().encode()


@pytest.mark.parametrize(
    "kind", ["application/dicom+json", "application/dicom+json; charset=utf-8", "application/json"]
)
def test_what_the_server_lists_is_stored(kind):
    store(kind, listed("ReferencedSOPSequence"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>Welcome</html>"),
        ("application/dicom+json", b"<html>Welcome</html>"),
        ("application/dicom+xml", b"<html>Welcome"),
        ("application/dicom+json", b"[]"),
        ("application/dicom+json", b"{}"),
        ("application/dicom+json", b""),
        ("application/dicom+json", listed("ReferencedSOPSequence", "1.2.3.5")),
        ("application/dicom+json", listed("FailedSOPSequence")),
    ],
)
def test_what_it_does_not_list_is_not(kind, body):
    with pytest.raises(DicomWebError, match=r"stored the segmentation|refused the segmentation"):
        store(kind, body)

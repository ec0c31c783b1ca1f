"""What a DICOMweb server must say of a segmentation for it to count as stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from lib.server.mends.dicomweb_labels import DicomWebLabels
from lib.server.mends.dicomweb_search import ArchiveClient
from lib.server.mends.dicomweb_session import DicomWebError, DicomWebSession

UID = "1.2.3.4"


@contextmanager
def archive(kind: str, body: bytes) -> Iterator[str]:
    """A server that answers every POST so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def segmentation() -> Dataset:
    made = Dataset()
    made.SOPInstanceUID, made.SOPClassUID = UID, SegmentationStorage
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = SegmentationStorage, UID
    return made


def store(kind: str, body: bytes) -> None:
    with archive(kind, body) as url, DicomWebSession(None, 5) as session:
        DicomWebLabels._store(SimpleNamespace(_client=ArchiveClient(url, session=session)), segmentation())


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
    with pytest.raises(DicomWebError, match="stored the segmentation|refused the segmentation"):
        store(kind, body)

"""Fixes of how MONAI Label 0.8.5 retrieves the instances of a series (WADO-RS, PS3.18 10.4).

- It requests uncompressed instances and re-encodes them, so that a server that does not transcode cannot send a
  series in another transfer syntax. Here instances are stored as the server sends them, byte for byte.
- It does not notice a response that ends too early or a frame that could not be fetched, and the series lacks slices
  from then on. Here either one makes the retrieval fail.
"""

import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import requests
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ImplicitVRLittleEndian
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.dicomweb.connection import AS_STORED, DicomWebError, DicomWebStatusError, pieces, unreachable_error
from lib.dicomweb.search import ArchiveClient
from lib.imaging.dicom.data_sets import write

_UID = re.compile(r"(?=.*[0-9])[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NOT_DICOM = (ValueError, LookupError, AttributeError, InvalidDicomError)
"""Exceptions of dicomweb-client, python-multipart and pydicom for input that they cannot read."""
_SERIES_UNSUPPORTED = (204, 400, 404, 405, 406, 415, 501)
"""Statuses returned by servers from which only single instances can be retrieved, not a whole series."""


def is_uid(text: str) -> bool:
    """Return whether a text can be a UID that an archive uses; if so, it is also safe as a file name.

    Devices and anonymisers write more than PS3.5 9.1 allows: components with leading zeros, more than 64 characters,
    letters, hyphens. Archives store them, and viewers show them. A UID must have a digit here; the names of this
    datastore's own folders have none.
    """
    return bool(_UID.fullmatch(text))


@dataclass(frozen=True)
class SeriesRetrieval:
    """Retrieval of the instances of one series.

    Args:
        client: Client for the server.
        study: The Study Instance UID.
        series: The Series Instance UID.
    """

    client: ArchiveClient
    study: str
    series: str

    def save(self, folder: Path, listed: Collection[str], *, by_frame: bool = False) -> str | None:
        """Retrieve all instances into an empty folder, one file each, called ``<SOP Instance UID>.dcm``.

        Args:
            folder: The empty folder.
            listed: The SOP Instance UIDs that the server lists; empty if it lists none.
            by_frame: MONAI Label's setting: build each instance from its metadata and its frames.

        Returns:
            The ``ETag`` that came with the series; None without one.

        Raises:
            DicomWebError: If the server does not send every instance, or its response is invalid.
        """
        etag = None
        try:
            if by_frame:
                self._save_frames(folder)
            else:
                etag = self._save_instances(folder, listed)
        except requests.RequestException as error:  # after the response's first bytes
            raise unreachable_error(error) from error
        except _NOT_DICOM as error:
            raise DicomWebError("the DICOMweb server's response is not a series of DICOM instances") from error
        there = {file.stem for file in folder.iterdir()}
        if not there:
            raise DicomWebError("the DICOMweb server has no instance of the series")
        if missing := len(set(listed) - there):
            raise DicomWebError(
                f"the DICOMweb server sent {len(there)} instances of the series, without {missing} that it lists"
            )
        return etag

    def has_etag(self, etag: str) -> bool:
        """Return whether the series still has this ``ETag``.

        Sends one request; the response has no body if the server supports ``If-None-Match``.
        """
        with self._get(self._url(), {"If-None-Match": etag}) as answer:
            return answer.status_code == 304 or answer.headers.get("ETag") == etag

    def _url(self, instance: str | None = None) -> str:
        parts = [self.client.base_url, self.client.wado_url_prefix, "studies", self.study, "series", self.series]
        return "/".join([part for part in parts if part] + (["instances", instance] if instance else []))

    def _get(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        session: requests.Session = self.client._session
        return session.get(url, headers={"Accept": AS_STORED, **(headers or {})}, stream=True)

    def _save_instances(self, folder: Path, listed: Collection[str]) -> str | None:
        try:
            answer = self._get(self._url())
        except DicomWebStatusError as error:
            if error.status not in _SERIES_UNSUPPORTED or not listed:
                raise
            for instance in listed:
                with self._get(self._url(instance)) as one:
                    self._save_answer(one, folder)
            return None
        with answer:
            if answer.status_code == 206:  # PS3.18 10.4.3.1
                raise DicomWebError("the DICOMweb server could not send all instances of the series (206)")
            self._save_answer(answer, folder)
            return answer.headers.get("ETag")

    def _save_answer(self, answer: requests.Response, folder: Path) -> None:
        parts = _Parts(folder)
        media_type, options = parse_options_header(answer.headers.get("Content-Type", ""))
        if media_type.lower().startswith(b"multipart/") and b"boundary" in options:
            parts.parse(answer, options[b"boundary"])
        else:  # a single instance without multipart packaging, contrary to PS3.18 8.6.1.2
            with parts.next() as file:
                for piece in pieces(answer):
                    file.write(piece)
        for part in parts.files:
            self._name(part)

    def _name(self, part: Path) -> None:
        """Rename an instance's file to its SOP Instance UID."""
        header = pydicom.dcmread(part, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"])
        if header.SeriesInstanceUID != self.series:
            raise DicomWebError("the DICOMweb server sent an instance of another series")
        part.rename(part.with_name(f"{_checked_uid(header)}.dcm"))

    def _save_frames(self, folder: Path) -> None:
        """Build each instance from its metadata and its uncompressed frames."""

        def save(metadata: dict[str, Any]) -> None:
            dataset = Dataset.from_json(metadata)
            count = int(dataset.get("NumberOfFrames") or 1)
            frames = self.client.retrieve_instance_frames(
                self.study, self.series, dataset.SOPInstanceUID, frame_numbers=list(range(1, count + 1))
            )
            if len(frames) != count:
                raise DicomWebError(f"the DICOMweb server sent {len(frames)} of the {count} frames of an instance")
            dataset.PixelData = b"".join(map(bytes, frames))
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            write(dataset, folder / f"{_checked_uid(dataset)}.dcm")

        metadata = self.client.retrieve_series_metadata(self.study, self.series)
        with ThreadPoolExecutor(2, "frames") as pool:
            for done in pool.map(save, metadata):
                assert done is None  # an error in a thread is raised here


class _Parts:
    """Writer of the parts of a multipart response (PS3.18 8.6.1.2), each to its own file as it arrives.

    Args:
        folder: Where to write the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._is_complete = False
        self.files: list[Path] = []

    def next(self) -> BinaryIO:
        """Return the next part's file, open for writing."""
        self.files.append(self._folder / f"{len(self.files)}.part")
        return open(self.files[-1], "wb")

    def parse(self, answer: requests.Response, boundary: bytes) -> None:
        """Write the response's parts to files.

        Raises:
            DicomWebError: If the response ends before its closing boundary.
            ValueError: If it is not a multipart message.
        """
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._complete,
            },
        )
        try:
            for piece in pieces(answer):
                if not self._is_complete:  # what follows the last boundary has no meaning
                    parser.write(piece)
        finally:
            self._end()
        if not self._is_complete:
            raise DicomWebError("the DICOMweb server's response is incomplete: its closing boundary is missing")

    def _begin(self) -> None:
        self._file = self.next()

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _complete(self) -> None:
        self._is_complete = True


def _checked_uid(dataset: Dataset) -> str:
    """Return an instance's SOP Instance UID, or raise if it is not safe as a file name."""
    uid = str(dataset.get("SOPInstanceUID", ""))
    if not is_uid(uid):
        raise DicomWebError("the DICOMweb server sent an instance without a valid SOP Instance UID")
    return uid

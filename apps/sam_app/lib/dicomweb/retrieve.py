"""Mends of how MONAI Label 0.8.5 retrieves the instances of a series (WADO-RS, PS3.18 10.4).

- It asks for uncompressed instances, so that a series in another transfer syntax does not come from a server that does
  not transcode, and writes them anew. Here they are written as they come, byte for byte.
- An answer that ends too early, and a frame that could not be fetched, go unnoticed: the series has fewer slices from
  then on. Here either fails the whole.
"""

from __future__ import annotations

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

from lib.dicomweb.connection import AS_STORED, DicomWebError, DicomWebStatusError, pieces, unreachable
from lib.dicomweb.search import ArchiveClient
from lib.imaging.dicom.data_sets import write

_UID = re.compile(r"(?=.*[0-9])[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NOT_DICOM = (ValueError, LookupError, AttributeError, InvalidDicomError)
"""What dicomweb-client, python-multipart and pydicom raise of what they cannot read."""
_NO_SUCH_RETRIEVAL = (204, 400, 404, 405, 406, 415, 501)
"""Statuses with which servers answer that hand out instances one by one alone."""


def is_uid(text: str) -> bool:
    """Whether a text can be a UID that an archive uses; then it is a plain name for a file, too.

    Devices and anonymisers write more than PS3.5 9.1 allows: components with leading zeros, more than 64 characters,
    letters, hyphens. Archives keep them, and viewers show them. A digit is in each, but not in the names of this
    datastore's own folders.
    """
    return bool(_UID.fullmatch(text))


@dataclass(frozen=True)
class SeriesRetrieval:
    """How the instances of one series are retrieved.

    Args:
        client: Knows the server.
        study: The Study Instance UID.
        series: The Series Instance UID.
    """

    client: ArchiveClient
    study: str
    series: str

    def save(self, folder: Path, listed: Collection[str], *, by_frame: bool = False) -> str | None:
        """Write all instances into an empty folder, one file each, called ``<SOP Instance UID>.dcm``.

        Args:
            folder: Gets the files.
            listed: The SOP Instance UIDs that the server lists; empty if it lists none.
            by_frame: As MONAI Label's setting: make each instance of its metadata and its frames.

        Returns:
            The ``ETag`` of the series as it was sent, if it has one.

        Raises:
            DicomWebError: If any instance is not handed out, or the answer is none.
        """
        etag = None
        try:
            if by_frame:
                self._save_frames(folder)
            else:
                etag = self._save_instances(folder, listed)
        except requests.RequestException as error:  # after the answer's first bytes
            raise unreachable(error) from error
        except _NOT_DICOM as error:
            raise DicomWebError("the DICOMweb server's answer is no series of DICOM instances") from error
        there = {file.stem for file in folder.iterdir()}
        if not there:
            raise DicomWebError("the DICOMweb server has no instance of the series")
        if missing := len(set(listed) - there):
            raise DicomWebError(
                f"the DICOMweb server sent {len(there)} instances of the series; {missing} that it lists are missing"
            )
        return etag

    def has_etag(self, etag: str) -> bool:
        """Whether the series still has that ``ETag``: one request, without a body if the server knows the header."""
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
            if error.status not in _NO_SUCH_RETRIEVAL or not listed:
                raise
            for instance in listed:
                with self._get(self._url(instance)) as one:
                    self._save_answer(one, folder)
            return None
        with answer:
            if answer.status_code == 206:  # PS3.18 10.4.3.1
                raise DicomWebError("the DICOMweb server could not hand out all instances of the series (206)")
            self._save_answer(answer, folder)
            etag: str | None = answer.headers.get("ETag")
            return etag

    def _save_answer(self, answer: requests.Response, folder: Path) -> None:
        parts = _Parts(folder)
        media_type, options = parse_options_header(answer.headers.get("Content-Type", ""))
        if media_type.lower().startswith(b"multipart/") and b"boundary" in options:
            parts.parse(answer, options[b"boundary"])
        else:  # a lone instance that is not packed, against PS3.18 8.6.1.2
            with parts.next() as file:
                for piece in pieces(answer):
                    file.write(piece)
        for part in parts.files:
            self._name(part)

    def _name(self, part: Path) -> None:
        """Call an instance's file by its UID."""
        header = pydicom.dcmread(part, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"])
        if header.SeriesInstanceUID != self.series:
            raise DicomWebError("the DICOMweb server sent an instance of another series")
        part.rename(part.with_name(f"{_checked_uid(header)}.dcm"))

    def _save_frames(self, folder: Path) -> None:
        """Make each instance of its metadata and its frames, which come uncompressed."""

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
                assert done is None  # an error of any is raised here


class _Parts:
    """The parts of a multipart answer (PS3.18 8.6.1.2), each written into a file of its own as it comes.

    Args:
        folder: Of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._is_complete = False
        self.files: list[Path] = []

    def next(self) -> BinaryIO:
        """The next part's file, open for writing."""
        self.files.append(self._folder / f"{len(self.files)}.part")
        return open(self.files[-1], "wb")

    def parse(self, answer: requests.Response, boundary: bytes) -> None:
        """Write the answer's parts.

        Raises:
            DicomWebError: If the answer ends before the boundary that closes it.
            ValueError: If it is no multipart message.
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
                if not self._is_complete:  # what follows the last boundary is of no meaning
                    parser.write(piece)
        finally:
            self._end()
        if not self._is_complete:
            raise DicomWebError("the DICOMweb server's answer ends in the middle: it is not closed by its boundary")

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
    """Of an instance; it becomes a file's name."""
    uid = str(dataset.get("SOPInstanceUID", ""))
    if not is_uid(uid):
        raise DicomWebError("the DICOMweb server sent an instance without a valid SOP Instance UID")
    return uid

"""A small DICOMweb archive whose series change under its clients, and which has the whims of real ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from lib.imaging.dicom.data_sets import to_bytes
from support.dicomweb_stand_in import Answer, StandIn

JSON = {"Content-Type": "application/dicom+json"}
QUOTED = 'multipart/related; type="application/dicom"; boundary="=_x"'


@cache
def _template() -> str:
    path = get_testdata_file("MR_small.dcm", download=False)
    assert path is not None
    return str(path)


def instance(study: str, series: str, k: int, brightness: int = 0, uid: str | None = None) -> bytes:
    """A slice of 64 x 64 pixels, 2.5 mm above the one before."""
    dataset = pydicom.dcmread(_template())
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    dataset.InstanceNumber = k + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, 2.5 * k]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = 2.5
    dataset.PixelData = (dataset.pixel_array + (7 * k + brightness)).astype("<u2").tobytes()
    return to_bytes(dataset)


def uid_of(content: bytes) -> str:
    """The SOP Instance UID of an instance."""
    header = pydicom.dcmread(io.BytesIO(content), specific_tags=["SOPInstanceUID"])
    return str(header.SOPInstanceUID)


@dataclass
class HeldSeries:
    """One series, and what the archive holds of it."""

    study: str = field(default_factory=generate_uid)
    uid: str = field(default_factory=generate_uid)
    modality: str = "MR"
    instances: list[bytes] = field(default_factory=list)

    def arrive(self, *ks: int) -> None:
        """Slices come in."""
        self.instances += [instance(self.study, self.uid, k) for k in ks]

    def about(self, *, with_count: bool = True) -> dict:
        """As QIDO-RS tells it."""
        count = {"00201209": {"vr": "IS", "Value": [len(self.instances)]}} if with_count else {}
        return {**_ui("0020000D", self.study), **_ui("0020000E", self.uid), **_cs("00080060", self.modality), **count}


@dataclass
class SmallArchive:
    """What it holds, and how it behaves; all of it may be changed at any time.

    Args:
        held: Its series.
        heeds_filters: Whether a search for one series finds that one alone.
        has_series_search: Whether it can be searched for series at its root.
        has_study_search: Whether it can be searched for studies.
        has_instance_search: Whether it lists the instances of a series.
        has_counts: Whether it says how many instances a series has.
        page: Results of one answer at most.
        refuses: From an ``Accept``: the status with which it is refused, or None.
        content_type: Of a series; ``=_x`` is the boundary.
        retrieves_series: Whether it hands out a series in one answer.
        etags: Whether it names what it hands out.
        closes: What it puts at the end of a series.
        withholds: How many of the instances that it lists it does not send.
        fails: The status with which it answers everything.
    """

    held: list[HeldSeries] = field(default_factory=list)
    heeds_filters: bool = True
    has_series_search: bool = True
    has_study_search: bool = True
    has_instance_search: bool = True
    has_counts: bool = True
    page: int | None = None
    refuses: Callable[[str], int | None] = lambda accept: None
    content_type: str = QUOTED
    retrieves_series: bool = True
    etags: bool = False
    closes: bytes = b"--=_x--\r\n"
    withholds: int = 0
    fails: int | None = None

    def serve(self, stand_in: StandIn) -> HeldSeries:
        """Answer in a stand-in's place, with one new series, which is answered."""
        self._stand_in = stand_in
        stand_in.answer = self._answer
        self.held.append(HeldSeries())
        return self.held[-1]

    def _answer(self, path: str) -> Answer:
        headers = self._stand_in.requests[-1][2]
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.removeprefix("/dicom-web/").strip("/").split("/")
        status = self.fails or self.refuses(headers.get("accept", ""))
        if status:
            return Answer(status, [(0, b"")], {"Content-Length": "0"})
        match parts:
            case ["series"] if self.has_series_search:
                return self._results([held.about(with_count=self.has_counts) for held in self.held], query)
            case ["studies"] if self.has_study_search:
                return self._results([_ui("0020000D", held.study) for held in self.held], query)
            case ["studies", study, "series"]:
                found = [held.about(with_count=self.has_counts) for held in self.held if held.study == study]
                return self._results(found, query)
            case ["studies", study, "series", series, *rest]:
                return self._of_series(study, series, rest, query, headers)
        return Answer(404, [(0, b"")], {"Content-Length": "0"})

    def _of_series(self, study: str, series: str, rest: list[str], query: dict, headers: dict) -> Answer:
        held = next((one for one in self.held if (one.study, one.uid) == (study, series)), None)
        if held is None:
            return Answer(404, [(0, b"")], {"Content-Length": "0"})
        match rest:
            case ["instances"] if self.has_instance_search:
                return self._results([_ui("00080018", uid_of(one)) for one in held.instances], query)
            case ["metadata"]:
                found = [{**held.about(), **_ui("00080018", uid_of(one))} for one in held.instances]
                return self._results(found, {})
            case ["instances", uid]:
                return self._instances([one for one in held.instances if uid_of(one) == uid])
            case [] if self.retrieves_series:
                etag = f'"{hash(tuple(held.instances))}"'
                if self.etags and headers.get("if-none-match") == etag:
                    return Answer(304, [(0, b"")], {"ETag": etag})
                sent = held.instances[: len(held.instances) - self.withholds]
                return self._instances(sent, {"ETag": etag} if self.etags else {})
        return Answer(404, [(0, b"")], {"Content-Length": "0"})

    def _instances(self, sent: list[bytes], headers: dict | None = None) -> Answer:
        parts = [b"--=_x\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in sent]
        kind = {"Content-Type": self.content_type, **(headers or {})}
        return Answer(body=[(0, b"".join(parts) + self.closes)], headers=kind)

    def _results(self, found: list[dict], query: dict) -> Answer:
        if self.heeds_filters:
            for name, tag in (("SeriesInstanceUID", "0020000E"), ("Modality", "00080060")):
                found = [one for one in found if name not in query or one[tag]["Value"] == [query[name]]]
        if self.page:
            offset = int(query.get("offset", 0))
            found = found[offset : offset + self.page]
        return Answer(body=[(0, json.dumps(found).encode())], headers=JSON)


def _ui(tag: str, value: str) -> dict:
    return {tag: {"vr": "UI", "Value": [value]}}


def _cs(tag: str, value: str) -> dict:
    return {tag: {"vr": "CS", "Value": [value]}}

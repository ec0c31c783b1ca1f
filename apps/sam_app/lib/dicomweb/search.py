"""Mends of how MONAI Label 0.8.5 searches a DICOMweb server (QIDO-RS, PS3.18 10.6).

- It takes the first series of an answer for the one that it asked for: a server that ignores the filter hands out
  another patient's. Here an answer is filtered again.
- It takes one page of results for all of them. Here pages are asked for until nothing new comes.
- It searches for series in the whole archive, which some servers cannot (static files, AWS HealthImaging). Here those
  are asked study by study.
- It never asks again what a series consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from monailabel.datastore.dicom import DICOMwebClientX

from lib.dicomweb.connection import (
    DicomWebError,
    DicomWebStatusError,
    DicomWebUnreachableError,
    SeriesGoneError,
)

STUDY, SERIES, INSTANCE, _MODALITY, _COUNT = "0020000D", "0020000E", "00080018", "00080060", "00201209"
_FILTERED_AGAIN = {"SeriesInstanceUID": SERIES, "StudyInstanceUID": STUDY, "Modality": _MODALITY}
_NO_SUCH_SEARCH = (400, 404, 405, 406, 410, 501)
"""Statuses with which servers answer to a search that they do not have."""
_MOST_PAGES = 1000

Found = dict[str, Any]
"""One result in the DICOM JSON model (PS3.18 F.2), by tag."""


def first_value(found: Found, tag: str) -> Any:
    """An attribute's first value; None if there is none."""
    attribute = found.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


class ArchiveClient(DICOMwebClientX):
    """dicomweb-client, for servers as they are; may be used by several threads."""

    def search_for_series(  # type: ignore[override]
        self, study_instance_uid: str | None = None, search_filters: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Found]:
        """All series that match.

        Args:
            study_instance_uid: Of this study alone.
            search_filters: By DICOM keyword.
            kwargs: As in dicomweb-client.

        Raises:
            DicomWebError: If the server does not answer, or has no search for series.
        """
        filters = dict(search_filters or {})
        search = partial(super().search_for_series, search_filters=filters, **kwargs)
        if study_instance_uid is None:
            every = self._in_every_study(search)
        else:
            every = _pages(search, study_instance_uid)
        wanted = {_FILTERED_AGAIN[name]: value for name, value in filters.items() if name in _FILTERED_AGAIN}
        return [found for found in every if all(_matches(found, tag, value) for tag, value in wanted.items())]

    def find_series(self, series: str) -> Found:
        """What the server says of a series.

        Raises:
            SeriesGoneError: If it does not have it.
            DicomWebError: As :meth:`search_for_series`.
        """
        found = self.search_for_series(search_filters={"SeriesInstanceUID": series})
        if not found or first_value(found[0], STUDY) is None:
            raise SeriesGoneError("the DICOMweb server no longer has the series")
        return found[0]

    def study_of(self, series: str) -> str:
        """The Study Instance UID of a series.

        Raises:
            DicomWebError: As :meth:`find_series`.
        """
        return str(first_value(self.find_series(series), STUDY))

    def count_instances(self, series: str) -> int | None:
        """How many instances the server says that a series has (0020,1209); None if it does not say.

        Raises:
            DicomWebError: As :meth:`find_series`.
        """
        count = first_value(self.find_series(series), _COUNT)
        return int(count) if count is not None else None

    def list_instances(self, study: str, series: str) -> frozenset[str] | None:
        """The SOP Instance UIDs of a series; None if the server has no list of them.

        Raises:
            DicomWebError: If it does not answer.
        """
        try:
            every = _pages(self.search_for_instances, study, series)
        except DicomWebUnreachableError:
            raise
        except DicomWebStatusError as error:
            if error.status not in _NO_SUCH_SEARCH:
                raise
            return None
        except DicomWebError:  # whatever it answered, it is no list
            return None
        uids = {first_value(found, INSTANCE) for found in every}
        return frozenset(uids) if uids and None not in uids else None

    def _in_every_study(self, search: Callable[..., list[Found]]) -> list[Found]:
        try:
            return _pages(search)
        except DicomWebStatusError as error:
            if error.status not in _NO_SUCH_SEARCH:
                raise
            missing = error.status
        try:
            studies = _pages(self.search_for_studies)
        except DicomWebStatusError as error:
            if error.status not in _NO_SUCH_SEARCH:
                raise
            raise DicomWebError(
                f"the DICOMweb server cannot be searched (QIDO-RS): it answered {missing} to GET /series and "
                f"{error.status} to GET /studies, one of which is needed"
            ) from None
        uids = [uid for study in studies if (uid := first_value(study, STUDY)) is not None]
        return [found for uid in uids for found in _pages(search, uid)]


def _pages(search: Callable[..., list[Found]], *args: Any) -> list[Found]:
    """All results of a search; a server that ignores ``offset`` sends the first page again."""
    results = _checked(search, *args)
    known = set(map(_uid, results))
    for _ in range(_MOST_PAGES if results else 0):
        try:
            page = _checked(search, *args, offset=len(results))
        except DicomWebStatusError:  # it has no pages
            break
        new = [found for found in page if _uid(found) not in known]
        if not new:
            break
        known.update(map(_uid, new))
        results = [*results, *new]
    return results


def _checked(search: Callable[..., list[Found]], *args: Any, **kwargs: Any) -> list[Found]:
    try:
        page = search(*args, **kwargs)
    except ValueError:
        page = None
    if not isinstance(page, list) or not all(isinstance(found, dict) for found in page):
        raise DicomWebError("the DICOMweb server's answer to a search is not in the DICOM JSON model (PS3.18 F)")
    return page


def _uid(found: Found) -> Any:
    """What tells a result from the others of its search."""
    return next((uid for tag in (INSTANCE, SERIES, STUDY) if (uid := first_value(found, tag)) is not None), None)


def _matches(found: Found, tag: str, wanted: Any) -> bool:
    """Whether a result has that value; what the result does not say, and what is a pattern, the server has matched."""
    value = first_value(found, tag)
    return value is None or not isinstance(wanted, str) or any(sign in wanted for sign in "*?\\,") or value == wanted

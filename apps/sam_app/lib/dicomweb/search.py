"""Fixes of how MONAI Label 0.8.5 searches a DICOMweb server (QIDO-RS, PS3.18 10.6).

- It takes the first result for the requested series: with a server that ignores the filter, that is another patient's.
  Here results are filtered again.
- It takes one page of results for all of them. Here pages are requested until one has nothing new.
- It searches for series in the whole archive, which some servers do not support (static files, AWS HealthImaging).
  Here those are searched study by study.
- It never requests the list of a series' instances again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from monailabel.datastore.dicom import DICOMwebClientX

from lib.dicomweb.connection import DicomWebError, DicomWebStatusError, DicomWebUnreachableError, SeriesGoneError

STUDY, SERIES, INSTANCE, _MODALITY, _COUNT = "0020000D", "0020000E", "00080018", "00080060", "00201209"
_NUMBER = "00200013"
_TAG_OF_FILTER = {"SeriesInstanceUID": SERIES, "StudyInstanceUID": STUDY, "Modality": _MODALITY}
_SEARCH_UNSUPPORTED = (400, 404, 405, 406, 410, 501)
"""Statuses returned by servers that do not support a search."""
_MAX_PAGES = 1000

_NOT_DICOM_JSON = "the DICOMweb server's response to a search is not in the DICOM JSON model (PS3.18 F)"

Found = dict[str, Any]
"""One search result in the DICOM JSON model (PS3.18 F.2): attributes by tag."""


def first_value(found: Found, tag: str) -> Any:
    """Return an attribute's first value; None if it has no value."""
    attribute = found.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


class ArchiveClient(DICOMwebClientX):
    """DICOMweb client that copes with servers that deviate from PS3.18; thread-safe."""

    def search_for_series(  # type: ignore[override]
        self, study_instance_uid: str | None = None, search_filters: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Found]:
        """Return all series that match.

        Args:
            study_instance_uid: Search only in this study.
            search_filters: Wanted values, by DICOM keyword.
            kwargs: As in dicomweb-client.

        Raises:
            DicomWebError: If the server does not respond, or does not support the search for series.
        """
        filters = dict(search_filters or {})
        search = partial(super().search_for_series, search_filters=filters, **kwargs)
        if study_instance_uid is None:
            every = self._in_every_study(search)
        else:
            every = _pages(search, study_instance_uid)
        if any(first_value(found, SERIES) is None for found in every):
            raise DicomWebError(_NOT_DICOM_JSON)
        wanted = {_TAG_OF_FILTER[name]: value for name, value in filters.items() if name in _TAG_OF_FILTER}
        return [found for found in every if all(_matches(found, tag, value) for tag, value in wanted.items())]

    def find_series(self, series: str) -> Found:
        """Return the search result for one series.

        Raises:
            SeriesGoneError: If the server does not have the series.
            DicomWebError: As :meth:`search_for_series`.
        """
        found = self.search_for_series(search_filters={"SeriesInstanceUID": series})
        if not found:
            raise SeriesGoneError("the DICOMweb server no longer has the series")
        if first_value(found[0], STUDY) is None:
            raise DicomWebError(_NOT_DICOM_JSON)
        return found[0]

    def study_of(self, series: str) -> str:
        """Return the Study Instance UID of a series.

        Raises:
            DicomWebError: As :meth:`find_series`.
        """
        return str(first_value(self.find_series(series), STUDY))

    def count_instances(self, series: str) -> int | None:
        """Return the server's number of instances of a series (0020,1209); None if the result does not have it.

        Raises:
            DicomWebError: As :meth:`find_series`.
        """
        count = first_value(self.find_series(series), _COUNT)
        return int(count) if count is not None else None

    def list_instances(self, study: str, series: str) -> frozenset[str] | None:
        """Return the SOP Instance UIDs of a series; None if the server does not list them.

        Raises:
            DicomWebError: If the server does not respond.
        """
        try:
            every = _pages(self.search_for_instances, study, series)
        except DicomWebUnreachableError:
            raise
        except DicomWebStatusError as error:
            if error.status not in _SEARCH_UNSUPPORTED:
                raise
            return None
        except DicomWebError:  # the response is not a list
            return None
        uids = {first_value(found, INSTANCE) for found in every}
        return frozenset(uids) if uids and None not in uids else None

    def rendered(self, series: str) -> bytes | None:
        """Return a picture of the middle instance of a series, as the server renders it.

        Returns:
            A PNG or JPEG, if the server does what it was asked for; None if it does not render.

        Raises:
            SeriesGoneError: If the server does not have the series.
            DicomWebError: If it does not respond.
        """
        study = self.study_of(series)
        try:
            found = sorted(_pages(self.search_for_instances, study, series), key=_number)
            middle = first_value(found[len(found) // 2], INSTANCE) if found else None
            if middle is None:
                return None
            picture: bytes = self.retrieve_instance_rendered(study, series, middle, ("image/png", "image/jpeg"))
        except DicomWebStatusError as error:
            if error.status not in _SEARCH_UNSUPPORTED:
                raise
            return None
        return picture

    def _in_every_study(self, search: Callable[..., list[Found]]) -> list[Found]:
        try:
            return _pages(search)
        except DicomWebStatusError as error:
            if error.status not in _SEARCH_UNSUPPORTED:
                raise
            missing = error.status
        try:
            studies = _pages(self.search_for_studies)
        except DicomWebStatusError as error:
            if error.status not in _SEARCH_UNSUPPORTED:
                raise
            raise DicomWebError(
                f"the DICOMweb server cannot be searched (QIDO-RS): it returned {missing} for GET /series and "
                f"{error.status} for GET /studies, but one of them is needed"
            ) from None
        uids = [uid for study in studies if (uid := first_value(study, STUDY)) is not None]
        return [found for uid in uids for found in _pages(search, uid)]


def _pages(search: Callable[..., list[Found]], *args: Any) -> list[Found]:
    """Return all results of a search, page by page; a server that ignores ``offset`` sends the first page again."""
    results = _checked(search, *args)
    known = set(map(_uid, results))
    for _ in range(_MAX_PAGES if results else 0):
        try:
            page = _checked(search, *args, offset=len(results))
        except DicomWebStatusError:  # the server does not support ``offset``
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
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, list) or not all(map(_is_result, page)):
        raise DicomWebError(_NOT_DICOM_JSON)
    return page


def _is_result(found: object) -> bool:
    """Return whether an item of a response is a result, in which UIDs are text."""
    return isinstance(found, dict) and all(
        isinstance(first_value(found, tag), str | None) for tag in (INSTANCE, SERIES, STUDY)
    )


def _number(found: Found) -> int:
    """Return the Instance Number of a search result; 0 without one."""
    number = first_value(found, _NUMBER)
    return number if isinstance(number, int) else 0


def _uid(found: Found) -> Any:
    """Return the UID that identifies a result within its search."""
    return next((uid for tag in (INSTANCE, SERIES, STUDY) if (uid := first_value(found, tag)) is not None), None)


def _matches(found: Found, tag: str, wanted: Any) -> bool:
    """Return whether a result has the wanted value; True if it lacks the attribute or a pattern is wanted.

    In these two cases only the server can match.
    """
    value = first_value(found, tag)
    return value is None or not isinstance(wanted, str) or any(sign in wanted for sign in "*?\\,") or value == wanted

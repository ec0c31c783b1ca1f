"""Fixes of how MONAI Label 0.8.5 lists the series of a DICOMweb server.

- It lists only CT, unless a setting says otherwise. Here all series that hold images are listed.
- It caches its lists for two hours, so that a new study is missing. Here for seconds.
- To find the labelled series it requests the metadata of every segmentation each time. Here once per segmentation.
"""

from collections.abc import Mapping
from threading import Lock
from typing import Any

from cachetools import TTLCache
from pydicom import Dataset

from lib.dicomweb.search import ArchiveClient

_WITHOUT_IMAGES = frozenset(
    {
        *("AU", "DOC", "ECG", "EPS", "FID", "HD", "KO", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN", "RTRECORD"),
        *("RTSTRUCT", "RWV", "SEG", "SR"),
    }
)
"""Modalities (PS3.3 C.7.3.1.1.1) of series without images to segment, such as segmentations themselves."""


class SeriesLists:
    """Cached lists of a DICOMweb server's series; thread-safe.

    Args:
        client: Client for the server.
        search_filter: Which series are listed: values by DICOM keyword; empty: all.
        max_age: Seconds after which a list is requested again.
    """

    def __init__(self, client: ArchiveClient, search_filter: Mapping[str, Any], max_age: float) -> None:
        self._client = client
        self._filter = dict(search_filter)
        self._images: TTLCache[None, list[Dataset]] = TTLCache(maxsize=1, ttl=max_age)
        self._labelled: TTLCache[None, list[str]] = TTLCache(maxsize=1, ttl=max_age)
        self._source_of: dict[str, str | None] = {}
        self._lock = Lock()

    def images(self) -> list[str]:
        """Return the Series Instance UIDs of the series that hold images.

        Raises:
            DicomWebError: If the server does not respond.
        """
        return [str(found.SeriesInstanceUID) for found in self.described()]

    def described(self) -> list[Dataset]:
        """Return what the server's search tells of each of :meth:`images`.

        Raises:
            DicomWebError: If the server does not respond.
        """
        with self._lock:
            found = self._images.get(None)
            if found is None:
                every = self._search(self._filter)
                found = self._images[None] = [one for one in every if one.get("Modality") not in _WITHOUT_IMAGES]
            return list(found)

    def labelled(self) -> list[str]:
        """Return those of :meth:`images` that a segmentation on the server refers to.

        Raises:
            DicomWebError: If the server does not respond.
        """
        images = self.images()
        with self._lock:
            found = self._labelled.get(None)
            if found is None:
                sources = {self._source(segmentation) for segmentation in self._search({"Modality": "SEG"})}
                found = self._labelled[None] = [series for series in images if series in sources]
            return list(found)

    def forget_labelled(self) -> None:
        """Drop the list of labelled series, because a segmentation was stored."""
        with self._lock:
            self._labelled.pop(None, None)

    def _search(self, search_filter: dict[str, Any]) -> list[Dataset]:
        return [Dataset.from_json(found) for found in self._client.search_for_series(search_filters=search_filter)]

    def _source(self, segmentation: Dataset) -> str | None:
        """Return the series that a segmentation's first instance refers to; cached, as an instance never changes."""
        series = str(segmentation.SeriesInstanceUID)
        if series not in self._source_of:
            metadata = self._client.retrieve_series_metadata(str(segmentation.StudyInstanceUID), series)
            sources = Dataset.from_json(metadata[0]).get("ReferencedSeriesSequence") if metadata else None
            self._source_of[series] = str(sources[0].SeriesInstanceUID) if sources else None
        return self._source_of[series]

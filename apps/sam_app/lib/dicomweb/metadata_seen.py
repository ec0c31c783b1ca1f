"""Record of a series' instances that a viewer reads, from the metadata sent to it (WADO-RS, PS3.18 10.4.1.1.2)."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from typing import Any

from lib.dicomweb.datastore import DicomWebStore
from lib.dicomweb.search import INSTANCE, SERIES, STUDY, first_value
from lib.dicomweb.series import token_of_instances
from lib.studies.displayed_images import Viewer, displayed_images

_MAX_BYTES = 256 * 1024 * 1024


class MetadataSeen:
    """Collector of a metadata response that is passed on from the DICOMweb server to a viewer.

    Args:
        store: The server's datastore.
        viewer: The client that receives the response.
    """

    def __init__(self, store: DicomWebStore, viewer: Viewer) -> None:
        self._store = store
        self._viewer = viewer
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Add the next piece of the body, as it is sent (perhaps compressed)."""
        self._size += len(piece)
        if self._size <= _MAX_BYTES:
            self._pieces.append(piece)

    def note(self, encoding: str) -> None:
        """Record what the viewer saw, once the response is complete; metadata that cannot be read is ignored.

        Args:
            encoding: The response's Content-Encoding.
        """
        instances: dict[tuple[str, str], set[str]] = defaultdict(set)
        for found in self._metadata(encoding):
            study, series, uid = (first_value(found, tag) for tag in (STUDY, SERIES, INSTANCE))
            if study and series and uid:
                instances[str(study), str(series)].add(str(uid))
        for (study, series), uids in instances.items():
            self._store.folders.record_study(series, study)
            displayed_images.record_sent(self._viewer, series, token_of_instances(uids))

    def _metadata(self, encoding: str) -> list[Any]:
        body = b"".join(self._pieces) if self._size <= _MAX_BYTES else b""
        try:
            if encoding in ("gzip", "deflate"):
                body = zlib.decompressobj(wbits=47).decompress(body, _MAX_BYTES)
            found = json.loads(body)
        except (ValueError, zlib.error, RecursionError):
            return []
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

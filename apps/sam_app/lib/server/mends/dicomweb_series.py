"""Mends of how MONAI Label 0.8.5 fetches a series from a DICOMweb server.

- It asks for uncompressed instances, so that a series in another transfer syntax does not come from a server that does
  not transcode. Here instances come as they are stored.
- Where fetching was interrupted, it takes the part of the series that it has for the whole from then on; two requests
  at the same time write the same files. Here a series is fetched once, aside, and renamed into place.
- What it fetched is for everyone on the machine to read. Here for the server's user alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from threading import Lock

import requests
from dicomweb_client import DICOMwebClient
from monailabel.datastore.utils.dicom import dicom_web_download_series
from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from lib.server.mends.dicomweb_session import DicomWebError, unreachable

_AS_STORED = (("application/dicom", "*"),)
"""Instances in whatever transfer syntax the server has them: PS3.18 8.7.3.5."""
_NOT_DICOM = (ValueError, LookupError, AttributeError, InvalidDicomError)
"""What dicomweb-client and pydicom raise of what they cannot read."""


def is_uid(text: str) -> bool:
    """Whether a text is a UID as DICOM has them (PS3.5 9.1); then it is a plain name for a file, too."""
    return bool(UID(text, IGNORE).is_valid)


class SeriesFolders:
    """Series of a DICOMweb server as folders of DICOM files; may be used by several threads.

    Args:
        client: Knows the server.
        root: Where the folders are.
        by_frame: As MONAI Label's setting: make each instance of its metadata and its first frame.
    """

    def __init__(self, client: DICOMwebClient, root: Path, *, by_frame: bool = False) -> None:
        self._client = client
        self._root = root
        self._by_frame = by_frame
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        os.chmod(root, 0o700)

    def path(self, series: str) -> Path:
        """Where a series is, or will be once it is fetched."""
        return self._root / series

    def is_there(self, series: str) -> bool:
        """Whether a series was fetched."""
        folder = self.path(series)
        return folder.is_dir() and any(folder.iterdir())

    def get(self, series: str) -> Path:
        """The folder of a series, fetched if need be.

        Raises:
            DicomWebError: If the server does not hand it out.
        """
        with self._locks[series]:
            if not self.is_there(series):
                self._fetch(series)
        return self.path(series)

    def _fetch(self, series: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._root, prefix=".fetching-") as aside:
            part = Path(aside, "series")
            part.mkdir()
            try:
                if self._by_frame:
                    dicom_web_download_series(None, series, str(part), self._client, True)
                else:
                    self._fetch_instances(series, part)
            except requests.RequestException as error:  # after the answer's first bytes
                raise unreachable(error) from error
            except _NOT_DICOM as error:
                raise DicomWebError("the DICOMweb server's answer is no series of DICOM instances") from error
            if not any(part.iterdir()):
                raise DicomWebError("the DICOMweb server has no instance of the series")
            if not self.is_there(series):  # another process may have been faster
                shutil.rmtree(self.path(series), ignore_errors=True)
                part.rename(self.path(series))

    def _fetch_instances(self, series: str, folder: Path) -> None:
        found = self._client.search_for_series(search_filters={"SeriesInstanceUID": series})
        if not found:
            raise DicomWebError("the DICOMweb server no longer has the series")
        study = str(Dataset.from_json(found[0]).StudyInstanceUID)
        for instance in self._client.iter_series(study, series, media_types=_AS_STORED):
            uid = str(instance.SOPInstanceUID)
            if not is_uid(uid):  # it becomes a file's name
                raise DicomWebError("the DICOMweb server sent an instance without a valid SOP Instance UID")
            instance.save_as(folder / f"{uid}.dcm")

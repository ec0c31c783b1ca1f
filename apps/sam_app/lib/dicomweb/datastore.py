"""MONAI Label's datastore for a DICOMweb server, with fixes.

Fixes of MONAI Label 0.8.5, besides those of :mod:`lib.dicomweb.lists`, :mod:`~lib.dicomweb.series` and
:mod:`~lib.dicomweb.connection`:

- It converts a series to a NIfTI file, which loses modality, windows and padding, and leaves a copy among the temporary
  files. Here inference reads the DICOM files, with the same voxel order; NIfTI is made only for download.
- A click names a slice only by its number, even if the series has changed since the client read it. Here the request
  is refused if the number may now refer to another slice, see :mod:`lib.studies.displayed_images`.
- Its NIfTI file ignores the shear of a tilted gantry, so that voxels are up to centimetres off. Here they are where the
  slices are.
- At start it downloads dcmqi's program, which it needs to convert labels to DICOM.
- It logs the server's address including a login in it.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from monailabel.config import settings
from monailabel.datastore.local import ImageLabelModel
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import md5_digest
from pydicom import Dataset

from lib.dicomweb.connection import DicomWebSession
from lib.dicomweb.labels import DicomWebLabels
from lib.dicomweb.lists import SeriesLists
from lib.dicomweb.retrieve import is_uid
from lib.dicomweb.search import ArchiveClient
from lib.dicomweb.series import DEFAULT_MAX_AGE_S, SeriesCopy, SeriesFolders
from lib.imaging.dicom.header_values import value_of
from lib.imaging.formats.nifti import has_position, write_nifti
from lib.imaging.image import ImageChangedError, NotOneVolumeError
from lib.imaging.readers import read_image
from lib.studies.displayed_images import Viewer, displayed_images
from lib.studies.folder_index import file_entry
from lib.studies.local_store import copy_atomically

_NIFTI = ".nii.gz"


class AddressError(ValueError):
    """The DICOMweb server's address cannot be used; the message gives the reason without the address."""


class DicomWebStore(DicomWebLabels):
    """Datastore of a DICOMweb server's series; an image's id is its Series Instance UID.

    Args:
        client: Client for the server.
        search_filter: Which series are listed: values by DICOM keyword; empty: all.
        cache_path: Where to store fetched series and labels; None: MONAI Label's folder in the user's home.
        max_age: Seconds after which lists of series are requested again, and copies of series are compared.
        fetch_by_frame: MONAI Label's setting; see :class:`SeriesFolders`.
        convert_to_nifti: MONAI Label's setting: whether images are downloaded as NIfTI.
        exclusive: See :class:`LocalStore`.

    Raises:
        FolderInUseError: If another server stores labels in the same folder.
        OSError: If the folder cannot be written.
    """

    def __init__(
        self,
        client: ArchiveClient,
        search_filter: Mapping[str, Any],
        cache_path: str | None,
        *,
        max_age: float = DEFAULT_MAX_AGE_S,
        fetch_by_frame: bool = False,
        convert_to_nifti: bool = True,
        exclusive: bool = False,
    ) -> None:
        self._client = client
        self._convert_to_nifti = convert_to_nifti
        self._extensions = ["*.nii.gz", "*.nii"]
        place = _place(client, cache_path)
        place.mkdir(parents=True, exist_ok=True)
        super().__init__(place, exclusive=exclusive)
        self._reconcile_datastore()
        root = Path(os.path.realpath(self._datastore.image_path()))
        self._lists = SeriesLists(client, search_filter, max_age)
        self.folders = SeriesFolders(client, root, by_frame=fetch_by_frame, max_age=max_age)
        self._converting = Lock()

    @property
    def session(self) -> requests.Session:
        """HTTP session for requests to the server; it has the login."""
        return self._client._session

    def has_image(self, series: str) -> bool:
        """Return whether a series was fetched or is on the server.

        Raises:
            DicomWebError: If the server does not respond.
        """
        return is_uid(series) and (
            self.folders.is_known(series)
            or bool(self._client.search_for_series(search_filters={"SeriesInstanceUID": series}))
        )

    def list_images(self) -> list[str]:
        """Return the UIDs of the series that hold images; see :meth:`SeriesLists.images`."""
        return self._lists.images()

    def described(self) -> list[Dataset]:
        """Return what the server's search tells of the series that hold images; see :meth:`SeriesLists.described`."""
        return self._lists.described()

    def rendered(self, series: str) -> bytes | None:
        """Return a picture of the middle of a series as the server renders it; see :meth:`ArchiveClient.rendered`."""
        return self._client.rendered(series) if is_uid(series) else None

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the UIDs of the series that have a segmentation; see :meth:`SeriesLists.labelled`."""
        return self._lists.labelled()

    def save_label(self, *args: Any, **kwargs: Any) -> str:
        """Store a label, see :meth:`DicomWebLabels.save_label`, and list the series as labelled from now on."""
        label: str = super().save_label(*args, **kwargs)
        self._lists.forget_labelled()
        return label

    def series_folder(self, series: str) -> str:
        """Return a folder with the DICOM files of a series; see :meth:`SeriesFolders.get`."""
        return str(self.folders.get(series).folder)

    def copy_displayed_by(self, series: str, viewer: Viewer) -> SeriesCopy:
        """Return the series as it is displayed by a client.

        Raises:
            ImageChangedError: If the series has changed since the client read it.
            DicomWebError: If the server does not send it; also if the server does not respond and the client has not
                worked with the local copy before.
        """
        here, known = self.folders.find(series), displayed_images.known(viewer, series)
        is_known = here is not None and known in here.tokens
        copy = self.folders.get(series, anew=not is_known, is_known=is_known)
        displayed_images.check_displayed(viewer, series, *copy.tokens)
        return copy

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a series for download: a NIfTI file or, by MONAI Label's settings, the DICOM folder.

        Raises:
            DicomWebError: If the server does not send it.
            ImageError: If it cannot be read.
            NotOneVolumeError: If NIfTI cannot express the positions of its slices.
        """
        path = self.register_image(image_id)
        if self._convert_to_nifti and not has_position(path):
            raise NotOneVolumeError(
                "this series cannot be converted to NIfTI without moving its slices: slices are missing or unevenly "
                "spaced, or there are several stacks. Use its DICOM images"
            )
        return path

    def register_image(self, series: str) -> str:
        """Add a series to MONAI Label's list and return its path; see :class:`DicomWebLabels`."""
        copy = self.folders.get(series)
        if not self._convert_to_nifti:
            return str(copy.folder)
        path = f"{self._datastore.image_path()}/{series}.nii.gz"
        with self._converting:
            is_made = self.get_image_info(series).get("version") == copy.version
            if not is_made or not os.path.exists(path):
                self._convert(series, copy)
        return os.path.realpath(path)

    def _dicom_info(self, series_id: str) -> dict[str, Any]:
        """Return the server's attributes of the series; upstream takes the first result, even if of another series."""
        found = Dataset.from_json(self._client.find_series(series_id))
        names = ("StudyDate", "StudyTime", "Modality", "RetrieveURL", "PatientID", "StudyInstanceUID")
        return {"SeriesInstanceUID": series_id, **{name: str(value_of(found, name) or "UNK") for name in names}}

    def _convert(self, series: str, copy: SeriesCopy) -> None:
        info = {**self._dicom_info(series), "version": copy.version}
        with tempfile.TemporaryDirectory() as scratch:
            converted = os.path.join(scratch, f"{series}.nii.gz")
            write_nifti(read_image(copy.folder), converted)
            name = f"{series}{_NIFTI}"
            path = Path(self._datastore.image_path(), name)
            with self._table, self._changing(series, path):
                known = self._datastore.objects.get(series)
                copy_atomically(Path(converted), path, durable=False)
                image = ImageLabelModel(image=file_entry(name, _NIFTI, info), labels=known.labels if known else {})
                self._datastore.objects[series] = image


class InferenceImages:
    """Datastore wrapper for one inference: an image is a folder of DICOM files, and the same one on every access.

    Args:
        store: The DICOMweb datastore.
    """

    def __init__(self, store: DicomWebStore) -> None:
        self.store = store
        self.copies: dict[str, SeriesCopy] = {}
        """The copies of series that this inference uses."""

    def get_image_uri(self, image_id: str) -> str:
        """Return the folder of a series."""
        if image_id not in self.copies:
            self.copies[image_id] = self.store.folders.get(image_id)
        return str(self.copies[image_id].folder)

    def save_label(self, image_id: str, *args: Any, **kwargs: Any) -> str:
        """Store a label, or raise if the series has changed since the label was made."""
        if self.copies.get(image_id, now := self.store.folders.get(image_id)).version != now.version:
            raise ImageChangedError("the series has changed while it was segmented: no label was stored, segment again")
        return self.store.save_label(image_id, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def for_inference(datastore: Datastore | InferenceImages) -> Any:
    """Return the datastore for one inference: DICOMweb wrapped in :class:`InferenceImages`, any other unchanged."""
    return InferenceImages(datastore) if isinstance(datastore, DicomWebStore) else datastore


def open_dicomweb(
    url: str, search_filter: Mapping[str, Any] | None = None, *, exclusive: bool = False
) -> DicomWebStore:
    """Open the datastore of a DICOMweb server according to MONAI Label's settings.

    Args:
        url: URL of the DICOMweb root, without a login.
        search_filter: Which series are listed: values by DICOM keyword, added to the filter of the settings.
        exclusive: See :class:`LocalStore`.

    Raises:
        AddressError: If the address is not valid, or contains a login.
        FolderInUseError: As :class:`DicomWebStore`.
    """
    try:
        address = urlsplit(url)
        is_address = bool(address.hostname) and address.port != 0
    except ValueError:  # unbalanced brackets, or a port that is not a number
        is_address = False
    if not is_address:
        raise AddressError("the DICOMweb server's address is invalid: it must be like http://HOST:PORT/dicom-web")
    if address.username or address.password:
        raise AddressError(
            "the DICOMweb server's address contains a login: remove it from there, and set "
            "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD"
        )
    client = ArchiveClient(
        url=url,
        session=_session(url),
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        permissive_uid=True,  # is_uid accepts the same
    )
    client.set_http_retry_params(retry=False)  # a user is waiting, and can repeat the request
    return DicomWebStore(
        client,
        {**_chosen("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {}), **(search_filter or {})},
        settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
        max_age=_chosen("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", DEFAULT_MAX_AGE_S),
        fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
        convert_to_nifti=settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI,
        exclusive=exclusive,
    )


def _place(client: ArchiveClient, cache_path: str | None) -> Path:
    """Return the folder in which MONAI Label stores the data of a server."""
    root = Path(cache_path) if cache_path else Path.home() / ".cache" / "monailabel" / "dicom"
    return root / md5_digest(client.base_url)


def _session(url: str) -> requests.Session:
    if "googleapis.com" in url:
        return create_session_from_gcp_credentials()
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return DicomWebSession((name, password) if name else None, settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT)


def _chosen(setting: str, default: Any) -> Any:
    """Return a setting's value if the operator set it, else ``default`` (not MONAI Label's default)."""
    return getattr(settings, setting) if setting in settings.model_fields_set else default

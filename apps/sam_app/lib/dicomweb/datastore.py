"""MONAI Label's datastore of a DICOMweb server, mended.

Mends, besides those of :mod:`lib.dicomweb.lists`, :mod:`~lib.dicomweb.series` and
:mod:`~lib.dicomweb.connection`, of MONAI Label 0.8.5:

- The NIfTI file that it makes of a series loses modality, windows and padding, and a copy stays behind among the
  temporary files. Here inference reads the DICOM files, in the same order of voxels; NIfTI is for who downloads it.
- A click names a slice by its number alone, whatever has become of the series since the client saw it. Here the client
  is told if that is no longer the one, see :mod:`lib.studies.seen_images`.
- That file knows no tilted gantry's shear, so that voxels lie up to centimetres off. Here they lie where the slices do.
- At start it downloads dcmqi's program, by which it makes labels DICOM.
- It logs the server's address with a login that is in it.
"""

from __future__ import annotations

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
from lib.imaging.formats.nifti_writer import is_placed, write_nifti
from lib.imaging.image import ImageChangedError, NotOneVolumeError
from lib.imaging.readers import read_image
from lib.studies.folder_index import described
from lib.studies.local_store import copy_whole
from lib.studies.seen_images import Viewer, seen_images

_NIFTI = ".nii.gz"


class AddressError(ValueError):
    """The DICOMweb server's address cannot be used; the message says why, and does not hold it."""


class DicomWebStore(DicomWebLabels):
    """The series of a DICOMweb server; an image's id is its Series Instance UID.

    Args:
        client: Knows the server.
        search_filter: Which series are listed, by DICOM keyword; empty: all.
        cache_path: Where to keep what was fetched; None: MONAI Label's place in the user's home.
        max_age: Seconds after which lists of series are asked for anew, and copies of series are compared.
        fetch_by_frame: As MONAI Label's setting; see :class:`SeriesFolders`.
        convert_to_nifti: As MONAI Label's setting: whether an image that is downloaded is NIfTI.
        exclusive: As of :class:`LocalStore`.

    Raises:
        FolderInUseError: If another server keeps labels at the same place.
        OSError: If the place cannot be written.
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
        self._search_filter = dict(search_filter)
        self._fetch_by_frame = fetch_by_frame
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
        """What the server is asked with; it has the login."""
        session: requests.Session = self._client._session
        return session

    def has_image(self, series: str) -> bool:
        """Whether a series was fetched or is on the server.

        Raises:
            DicomWebError: If the server does not answer.
        """
        return is_uid(series) and (
            self.folders.is_known(series)
            or bool(self._client.search_for_series(search_filters={"SeriesInstanceUID": series}))
        )

    def list_images(self) -> list[str]:
        """The series that hold images; see :meth:`SeriesLists.images`."""
        return self._lists.images()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The series that have a segmentation; see :meth:`SeriesLists.labelled`."""
        return self._lists.labelled()

    def save_label(self, *args: Any, **kwargs: Any) -> str:
        """As MONAI Label's; the image counts as labelled from then on."""
        label: str = super().save_label(*args, **kwargs)
        self._lists.forget_labelled()
        return label

    def series_folder(self, series: str) -> str:
        """A folder with the DICOM files of a series; see :meth:`SeriesFolders.get`."""
        return str(self.folders.get(series).folder)

    def copy_for(self, series: str, viewer: Viewer) -> SeriesCopy:
        """The series as a client has it before its eyes.

        Args:
            series: Its Series Instance UID.
            viewer: The client.

        Raises:
            ImageChangedError: If the series has changed since.
            DicomWebError: If the server does not hand it out, or does not answer to a client that is new to it.
        """
        here, known = self.folders.find(series), seen_images.known(viewer, series)
        is_known = here is not None and known in here.tokens
        copy = self.folders.get(series, anew=not is_known, is_known=is_known)
        seen_images.meant(viewer, series, *copy.tokens)
        return copy

    def get_image_uri(self, image_id: str) -> str:
        """What a client downloads: the series as NIfTI or, if MONAI Label's settings say so, its folder.

        Raises:
            DicomWebError: If the server does not hand it out.
            ImageError: If it cannot be read.
            NotOneVolumeError: If NIfTI cannot say where its slices lie.
        """
        path = self.keep_image(image_id)
        if self._convert_to_nifti and not is_placed(path):
            raise NotOneVolumeError(
                "as one volume of even steps the images of the series would not lie where they do (slices are missing "
                "or unevenly spaced, or there are several stacks), so that there is no NIfTI: take its DICOM images"
            )
        return path

    def keep_image(self, series: str) -> str:
        """Have MONAI Label know a series; see :class:`DicomWebLabels`."""
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
        """What the server says of the series; upstream takes the first of its answer, whichever it is."""
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
                copy_whole(Path(converted), path, durable=False)
                image = ImageLabelModel(image=described(name, _NIFTI, info), labels=known.labels if known else {})
                self._datastore.objects[series] = image


class InferenceImages:
    """A DICOMweb datastore as one inference sees it: an image is a folder of DICOM files, and stays the same one.

    Args:
        store: The datastore.
    """

    def __init__(self, store: DicomWebStore) -> None:
        self.store = store
        self._copies: dict[str, SeriesCopy] = {}

    def has_copy(self, series: str) -> bool:
        """Whether it is decided which one it works with."""
        return series in self._copies

    def use_copy(self, series: str, copy: SeriesCopy) -> None:
        """Work with that one."""
        self._copies[series] = copy

    def get_image_uri(self, image_id: str) -> str:
        """The folder of a series."""
        if image_id not in self._copies:
            self._copies[image_id] = self.store.folders.get(image_id)
        return str(self._copies[image_id].folder)

    def save_label(self, image_id: str, *args: Any, **kwargs: Any) -> str:
        """As the datastore's, unless the series is no longer the one that the label was made on."""
        if self._copies.get(image_id, now := self.store.folders.get(image_id)).version != now.version:
            raise ImageChangedError("the series has changed while it was segmented, so that the label was not kept")
        return self.store.save_label(image_id, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def for_inference(datastore: Datastore | InferenceImages) -> Any:
    """What one inference gets its images from: a DICOMweb server's DICOM files, every other datastore as it is."""
    return InferenceImages(datastore) if isinstance(datastore, DicomWebStore) else datastore


def open_dicomweb(
    url: str, search_filter: Mapping[str, Any] | None = None, *, exclusive: bool = False
) -> DicomWebStore:
    """The datastore of a DICOMweb server, by MONAI Label's settings.

    Args:
        url: Of the DICOMweb root, without a login.
        search_filter: Which series are listed, by DICOM keyword, besides the settings' own filter.
        exclusive: As of :class:`LocalStore`.

    Raises:
        AddressError: If the address is none, or there is a login in it.
        FolderInUseError: As :class:`DicomWebStore`.
    """
    try:
        address = urlsplit(url)
        is_address = bool(address.hostname) and address.port != 0
    except ValueError:  # brackets that do not match, or a port that is no number
        is_address = False
    if not is_address:
        raise AddressError("the DICOMweb server's address is none: it must be like http://HOST:PORT/dicom-web")
    if address.username or address.password:
        raise AddressError(
            "the DICOMweb server's address holds a login: give it without, and set MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD"
        )
    client = ArchiveClient(
        url=url,
        session=_session(url),
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        permissive_uid=True,  # as is_uid
    )
    client.set_http_retry_params(retry=False)  # somebody is waiting, and can ask again
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
    """Where MONAI Label keeps what belongs to a server."""
    root = Path(cache_path) if cache_path else Path.home() / ".cache" / "monailabel" / "dicom"
    return root / md5_digest(client.base_url)


def _session(url: str) -> requests.Session:
    if "googleapis.com" in url:
        session: requests.Session = create_session_from_gcp_credentials()
        return session
    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return DicomWebSession((name, password) if name else None, settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT)


def _chosen(setting: str, default: Any) -> Any:
    """A setting's value if the operator gave one, never MONAI Label's default."""
    return getattr(settings, setting) if setting in settings.model_fields_set else default

"""Where the images are that the server has, besides those of results: in the datastore and in sessions."""

import re
from pathlib import Path
from typing import Any

from monailabel.interfaces.utils.app import app_instance
from pydicom import Dataset

from lib.dicomweb.datastore import DicomWebStore, for_inference
from lib.dicomweb.retrieve import is_uid
from lib.imaging.dicom.header_values import value_of
from lib.server.auth.users import User
from lib.server.upstream.arguments import known_image
from lib.server.upstream.session_routes import session_of

_DATE = re.compile(r"^(\d{4})(\d\d)(\d\d)$")


class StoredImages:
    """Paths of images: of a file, or of a folder with the files of a series."""

    def listed(self) -> list[dict[str, Any]]:
        """Return the images of the datastore: ``id``, ``labels`` (tags), and what an archive's search tells of each.

        Raises:
            DicomWebError: If a DICOMweb server does not respond.
        """
        datastore = app_instance().datastore()
        tags = {image: list(datastore.get_labels_by_image_id(image)) for image in datastore.list_images()}
        if not isinstance(datastore, DicomWebStore):
            return [{"id": image, "labels": labels} for image, labels in tags.items()]
        labelled = set(datastore.get_labeled_images())
        return [
            {
                "id": (series := str(found.SeriesInstanceUID)),
                "labels": sorted({*tags.get(series, []), *(["final"] if series in labelled else [])}),
                "patient": _text(found, "PatientID", "PatientName"),
                "date": _DATE.sub(r"\1-\2-\3", _text(found, "StudyDate")),
                "modality": _text(found, "Modality"),
                "description": _text(found, "SeriesDescription", "StudyDescription"),
            }
            for found in datastore.described()
        ]

    def here_of_datastore(self, image: str) -> Path | None:
        """Return that of an image of the datastore as it is here, without asking a DICOMweb server; None if it is not.

        Raises:
            UnknownImageError: If a folder has none with this id.
        """
        datastore = app_instance().datastore()
        if not isinstance(datastore, DicomWebStore):
            return self.of_datastore(image)
        copy = datastore.folders.find(image) if is_uid(image) else None
        return copy.folder if copy else None

    def of_datastore(self, image: str) -> Path:
        """Return that of an image of the datastore; a DICOMweb server is asked, which can take long.

        Raises:
            UnknownImageError: If there is none with this id.
            DicomWebError: If a DICOMweb server does not send it.
        """
        return Path(for_inference(app_instance().datastore()).get_image_uri(known_image(image)))

    def rendered_by_archive(self, image: str) -> bytes | None:
        """Return a picture of an image as a DICOMweb server renders it, PNG or JPEG; None if it does not.

        Raises:
            DicomWebError: If it does not respond, or no longer has the image.
        """
        datastore = app_instance().datastore()
        return datastore.rendered(image) if isinstance(datastore, DicomWebStore) else None

    def of_session(self, session_id: str, user: User) -> Path:
        """Return that of a session that the user may use, and count this as a use.

        Raises:
            HTTPException: 404 if there is none.
        """
        return Path(session_of(session_id, user).image)


def _text(found: Dataset, *keywords: str) -> str:
    """Return the first of these attributes that has a value, as text."""
    return next((text for keyword in keywords if (text := str(value_of(found, keyword) or "").strip())), "")

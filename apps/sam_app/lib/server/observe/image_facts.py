"""What MONAI Label's routes work on, noted for the audit log: images by SHA-256, never by their ids or paths."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fastapi import UploadFile
from monailabel.interfaces.utils.app import app_instance

from lib.base.files import sha256_of
from lib.base.request_record import note
from lib.dicomweb.datastore import DicomWebStore
from lib.imaging.image_cache import image_sha256, series_sha256


def note_image_file(path: Path) -> None:
    """Note the SHA-256 of an image, a file or a folder; of one that is not there or cannot be read nothing is noted."""
    with suppress(OSError):
        note(image_sha256=image_sha256(path))


def note_uploads(files: Sequence[UploadFile]) -> None:
    """Record the SHA-256 of an uploaded image: of its file, or of a series of several files."""
    sums = [sha256_of(file.file) for file in files]
    note(image_sha256=sums[0] if len(sums) == 1 else series_sha256(sums))


def note_datastore_image(image: str) -> None:
    """Note the SHA-256 of an image of the datastore; of a DICOMweb server's only once its series was fetched."""
    datastore = app_instance().datastore()
    if isinstance(datastore, DicomWebStore):
        copy = datastore.folders.find(image)
        if copy:
            note_image_file(copy.folder)
    else:
        note_image_file(Path(datastore.get_image_uri(image)))

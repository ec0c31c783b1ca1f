"""Choice of the folder for labels: the folder of the images or, if that cannot be written, one of the server's.

MONAI Label 0.8.5 ends with a stack trace if it cannot write into the studies.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from monailabel.config import settings

from lib.base.files import move, sync
from lib.imaging.image import MedicalImage
from lib.studies.folder_datastore import FolderDatastore
from lib.studies.folder_index import StudiesError, folders_in
from lib.studies.study_files import INDEX, LABELS

logger = logging.getLogger(__name__)


def open_folder(
    studies: Path,
    datastore: Path,
    read: Callable[[Path], MedicalImage],
    look: Callable[[Path], MedicalImage],
) -> FolderDatastore:
    """Open the datastore of a folder of images according to MONAI Label's settings, and lock out other servers.

    Args:
        studies: The folder.
        datastore: Where to store labels and lists of folders that cannot be written.
        read: See :class:`FolderDatastore`.
        look: Likewise.

    Raises:
        StudiesError: If it cannot be served; the message gives the reason and a solution.
        FolderInUseError: If another server serves it.
    """
    try:
        os.listdir(studies)
    except OSError as error:
        raise StudiesError(f"the studies {studies} cannot be read: {error.strerror}; give a folder of images") from None
    is_writable = not settings.MONAI_LABEL_DATASTORE_READ_ONLY and _is_writable(studies)
    try:
        place = studies if is_writable else _separate_place(studies, datastore)
        store = FolderDatastore(
            studies, place, read, look, follows=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD, exclusive=True
        )
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or "one of their files cannot be copied"
        if is_writable:
            raise StudiesError(f"the studies {studies} cannot be used: {reason}") from None
        raise StudiesError(
            f"the studies {studies} are read-only, and their labels cannot be stored in {datastore}: {reason}; choose "
            "another folder with --conf datastore FOLDER"
        ) from None
    if not is_writable:
        logger.warning("The studies are read-only: their labels are stored in %s", place)
    return store


def _is_writable(studies: Path) -> bool:
    """Return whether files can be created in the folder, and in its existing folders of labels."""
    labels = studies / LABELS
    try:
        for folder in (studies, labels, *folders_in(labels)):
            if folder.exists():
                tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _separate_place(studies: Path, datastore: Path) -> Path:
    """Return the folder for the list and labels of read-only studies; a new one gets a copy of the existing ones."""
    place = datastore / hashlib.sha256(os.fsencode(studies)).hexdigest()[:16]
    datastore.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=datastore) as scratch:
            aside = Path(scratch, "aside")
            aside.mkdir()
            if (studies / INDEX).is_file():
                shutil.copyfile(studies / INDEX, aside / INDEX)
            if (studies / LABELS).is_dir():
                shutil.copytree(studies / LABELS, aside / LABELS, copy_function=shutil.copyfile)
            for path in aside.rglob("*"):
                sync(path)
            move(aside, place)
    tempfile.TemporaryFile(dir=place).close()
    return place

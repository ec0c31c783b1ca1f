"""Local files of the two datastores (a folder's and a DICOMweb server's): images, labels, and the list of them.

Fixes of MONAI Label 0.8.5, from which both datastores are derived:

- It writes list, labels and images in place: a killed server leaves an empty list, with which it does not start again,
  and truncated labels, which it serves. Here files are replaced atomically, and are on the disk before the response.
- It replaces a label and then the list: if the disk is full, the old label is lost. Here both change, or neither.
- It stops if it cannot read the list, and one invalid value in it (``NaN``) turns each response into a 500. Here the
  value is dropped; a list that is not readable at all is rebuilt from the files. The original list is saved next to it.
- Two servers on one folder lose each other's labels. Here the second one is refused.

Concurrency: one lock guards the table of images; it is held while files change.
"""

import copy
import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from lib.base.files import atomic_write, remove_leftovers, restored_on_error, sync
from lib.base.locks import FolderLock
from lib.studies.folder_index import (
    DamagedListError,
    FolderIndex,
    file_entry,
    folders_in,
    new_index,
    read_index,
    save_damaged_copy,
    write_index,
)
from lib.studies.storable import check_info
from lib.studies.study_files import INDEX

logger = logging.getLogger(__name__)

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_MAX_NAMED = 10


class LocalStore(LocalDatastore):
    """Base class of both datastores: a folder with MONAI Label's images, labels and their list.

    Args:
        studies: The folder of the images.
        place: The folder of the list and the labels; must exist.
        exclusive: Lock ``place`` against other servers until this process ends, and remove leftovers of killed ones.

    Raises:
        FolderInUseError: If another server has locked ``place``.
        OSError: If ``place`` cannot be written.
    """

    def __init__(self, studies: Path, place: Path, *, exclusive: bool = False) -> None:  # upstream starts a watcher
        self._studies = studies
        self._datastore_path = str(place)
        self._datastore_config_path = str(place / INDEX)
        self._config_ts = 0.0
        self._auto_reload = False  # no watcher, so that upstream rescans the folder after a removal
        self._table = threading.RLock()
        self._in_use = _lock(place) if exclusive else None
        try:
            self._use(new_index(studies, place))
            self._init_from_datastore_file()
            for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL):
                os.makedirs(self._datastore.label_path(tag), exist_ok=True)
            if exclusive:
                labels = Path(self._datastore.label_path(None))
                for folder in {place, Path(self._datastore.image_path()), *folders_in(labels)}:
                    remove_leftovers(folder)
                if self._datastore._replaced:
                    self._delete_replaced(self._datastore._replaced)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder's lock for other servers."""
        if self._in_use:
            self._in_use.release()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label."""
        path = LocalDatastore.get_label_uri(self, label_id, label_tag)
        with self._table:
            if path:
                Path(path).unlink(missing_ok=True)
                sync(Path(path).parent)
            self.refresh()

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Add values to the stored information about an image."""
        with self._table:
            if image_id not in self._datastore.objects:
                raise ImageNotFoundException(f"Image {image_id} not found")
            self._add_info(image_id, lambda image: image.image, info)

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """Add values to the stored information about a label."""
        with self._table:
            if self._datastore.label(label_id, label_tag) is None:
                raise LabelNotFoundException(f"Label: {label_id} Tag: {label_tag} not found")
            self._add_info(label_id, lambda image: image.labels[label_tag], info)

    def _add_info(self, id: str, entry: Callable[[ImageLabelModel], DataModel], info: Mapping[str, Any]) -> None:
        with self._changing(id):
            found = entry(self._datastore.objects[id])
            merged = {**found.info, **info}
            check_info(merged)
            found.info = merged

    def keep_label(self, image_id: str, file: Path, label_tag: str, info: Mapping[str, Any] | None) -> None:
        """Store a label; it replaces the image's label with the same tag, which stays if an error occurs.

        Args:
            image_id: The image's id.
            file: File of the label.
            label_tag: Its tag.
            info: Further information about it.

        Raises:
            ImageNotFoundException: If there is no such image.
            OSError: If it cannot be written.
        """
        suffix = self._to_id(file.name)[1]
        name = image_id + suffix
        with self._table:
            if image_id not in self._datastore.objects:
                raise ImageNotFoundException(f"Image {image_id} not found")
            before = self._datastore.objects[image_id].labels.get(label_tag)
            path = Path(self._datastore.label_path(label_tag), name)
            if not path.parent.is_dir():
                path.parent.mkdir()
                sync(path.parent.parent)
            replaced = f"{label_tag}/{image_id}{before.ext}" if before and before.ext != suffix else ""
            with self._changing(image_id, path, replaced=replaced):
                copy_atomically(file, path)
                image = self._datastore.objects[image_id]
                image.labels = {**image.labels, label_tag: file_entry(name, suffix, info)}
            if replaced:
                self._delete_replaced(replaced)

    @contextmanager
    def _changing(self, image_id: str, *files: Path, replaced: str = "") -> Iterator[None]:
        """Make changes to an image's entry and files in the ``with`` block, and to the list after it, atomic.

        The files must be replaced or removed, not written in place, see :func:`restored_on_error`; ``replaced`` is
        that of :func:`write_index`.
        """
        with self._table:
            before = copy.deepcopy(self._datastore.objects.get(image_id))
            try:
                with restored_on_error(files):
                    yield
                    self._config_ts = write_index(self._datastore, Path(self._datastore_config_path), replaced)
            except BaseException:
                if before is None:
                    self._datastore.objects.pop(image_id, None)
                else:
                    self._datastore.objects[image_id] = before
                raise

    def _delete_replaced(self, label: str) -> None:
        """Delete the file of a label that is no longer listed, and write the list without its name."""
        labels = Path(self._datastore.label_path(None))
        path = labels / label
        if path.parent.parent == labels and ".." not in path.parts:
            path.unlink(missing_ok=True)
        self._write_what_was_found()

    def _use(self, index: FolderIndex) -> None:
        """Use a list as the current one."""
        self._datastore = index

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the list, if its file has changed since it was last read or written."""
        path = Path(self._datastore_config_path)
        with self._table:
            if not path.exists() or path.stat().st_mtime == self._config_ts:
                return
            try:
                index, problems = read_index(path, self._studies)
            except DamagedListError:
                kept = save_damaged_copy(path)
                logger.error("The list of the images is damaged: it is saved as %s and rebuilt from the files", kept)
            else:
                self._use(index)
                if not problems:
                    self._config_ts = path.stat().st_mtime
                    return
                kept, names = save_damaged_copy(path), "; ".join([*dict.fromkeys(problems)][:_MAX_NAMED])
                logger.error(
                    "%d invalid values of the list are dropped (%s); it is saved as %s", len(problems), names, kept
                )
            self._config_ts = path.stat().st_mtime
            self._write_what_was_found()

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the list."""
        with self._table:
            self._config_ts = write_index(self._datastore, Path(self._datastore_config_path))

    def _write_what_was_found(self) -> None:
        """Write the list, or log an error: the list can be rebuilt from the files, so this need not stop the work."""
        try:
            self._update_datastore_file()
        except OSError as error:
            logger.error("The list of the images cannot be written: %s", error.strerror)


def copy_atomically(source: Path, target: Path, *, durable: bool = True) -> None:
    """Copy a file atomically; for ``durable`` see :func:`atomic_write`."""
    with atomic_write(target, durable=durable) as file, open(source, "rb") as content:
        shutil.copyfileobj(content, file)


def _lock(place: Path) -> FolderLock | None:
    """Lock a folder against other servers; None, with a warning, if its file system does not support locks."""
    try:
        return FolderLock(place)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        logger.warning("The file system of %s does not support locks: do not start a second server there", place)
        return None

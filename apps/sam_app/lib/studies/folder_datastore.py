"""MONAI Label's datastore for a folder of images, with fixes.

Fixes of MONAI Label 0.8.5, besides those of :mod:`lib.studies.local_store`:

- A new image with the id of an existing one silently replaces it, and inherits its labels.
- A label of any size and position is stored as the label of an image.
- Of two files with the same stem (``a.nii.gz``, ``a.nii``) one is not listed.
- Entries that are not images are listed and offered as next sample for ever: folders, empty files, macOS's ``._*``.
- The folder must be writable, and new files are found only by a watcher, which some file systems do not support.

Here the folder is scanned again on access if its modification time, or that of an excluded file, has changed. If the
folder cannot be written, labels and the list are stored elsewhere: see :mod:`lib.studies.folder_place`.

Concurrency: one lock guards the table of images; a scan, which reads first bytes, holds it. Whole files are read in a
separate thread, without the lock.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import ImageLabelModel
from monailabel.interfaces.datastore import DefaultLabelTag

from lib.base.files import sync
from lib.base.threads import start_watched
from lib.imaging.image import MedicalImage
from lib.imaging.labels.label_grid import RAW_SUFFIX, check_label_file
from lib.sam.device_queue import lower_priority
from lib.studies.folder_index import FolderIndex, case_folded, file_entry, folders_in, label_files, rank, update_labels
from lib.studies.local_store import LocalStore, copy_atomically
from lib.studies.study_files import Depth, StudyFiles, image_suffixes, split_name

logger = logging.getLogger(__name__)

_REGIONS = ".json"
_TIMESTAMP_TICK_S = 2.0
"""A folder modified less than this before a scan can change again without a new modification time (clock tick)."""

_FILES_PER_BATCH = 20


class ImageExistsError(HTTPException):
    """409: an image with this id, or a file with this name, exists."""

    def __init__(self, detail: str) -> None:
        super().__init__(409, detail)


class ReadOnlyError(HTTPException):
    """409: the folder of the images cannot be written."""

    def __init__(self) -> None:
        super().__init__(409, "the studies are read-only: images cannot be added or removed")


class FolderDatastore(LocalStore):
    """Datastore of a folder of images; an image's id is its file's name without the suffix.

    Of several files with the same stem, the first (in the order of the settings' suffixes) has the stem as its id, the
    others have their whole names.

    Args:
        studies: The folder of the images.
        place: The folder of the list and the labels; ``studies`` itself if that can be written.
        read: Reads an image and caches it for the next click.
        look: Reads an image without caching it.
        follows: Whether files that arrive later are found, too.
        exclusive: See :class:`LocalStore`.

    Raises:
        FolderInUseError: If another server uses ``place``.
        OSError: If ``place`` cannot be written.
    """

    def __init__(
        self,
        studies: Path,
        place: Path,
        read: Callable[[Path], MedicalImage],
        look: Callable[[Path], MedicalImage],
        *,
        follows: bool = True,
        exclusive: bool = False,
    ) -> None:
        self._read = read
        self._read_uncached = look
        self._follows = follows
        self._is_read_only = place != studies
        self._files = StudyFiles(studies, image_suffixes())
        self._extensions = [f"*{suffix}" for suffix in self._files.suffixes]
        self._last_state: object = None
        self._left_out: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self._checking = threading.Lock()
        super().__init__(studies, place, exclusive=exclusive)
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Scan the folder, and start reading its new files in the background."""
        with self._table:
            started = time.time()
            self._reconcile_datastore()
            state = self._folder_state()
            is_settled = started - max(state[0], default=0) / 1e9 > _TIMESTAMP_TICK_S
            self._last_state = state if is_settled else None
        if self._files.to_check():
            start_watched("study-files", self._check_new_files)

    def has_image(self, image: str) -> bool:
        """Return whether :meth:`list_images` has an image with this id."""
        self._refresh_if_changed()
        name = self._name_of(image)
        return name is not None and name not in self._left_out

    def list_images(self) -> list[str]:
        """Return the ids of the images, without those known to be unreadable."""
        return list(self._listed())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the ids of the images with a final label."""
        return [id for id, image in self._listed().items() if image.labels.get(DefaultLabelTag.FINAL)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the ids of the images without a final label."""
        return [id for id, image in self._listed().items() if not image.labels.get(DefaultLabelTag.FINAL)]

    def status(self) -> dict[str, Any]:
        """Return MONAI Label's counts, and the number of excluded entries of the folder as ``left_out``."""
        with self._table:
            return {**super().status(), "left_out": len(self._left_out)}

    def json(self) -> dict[str, Any]:
        """Return MONAI Label's list, and the reasons why entries of the folder are excluded as ``left_out``."""
        with self._table:
            objects = {id: image.model_dump() for id, image in self._listed().items()}
            described = self._datastore.model_dump(exclude={"base_path", "objects"})
            return {**described, "objects": objects, "left_out": dict(self._left_out)}

    def opens(self, image: str) -> bool:
        """Return whether an image can be read; if not, exclude it from lists until its file changes.

        Args:
            image: Its id. The image is cached for the next click.
        """
        name = self._name_of(image)
        if name is None:
            return False
        reason = self._files.check(name, Depth.ALL, self._read)
        if reason is not None:
            self._leave_out({name: reason})
        return reason is None

    def _refresh_if_changed(self) -> None:
        """Scan the folder again if it changed."""
        try:
            if self._follows and self._last_state != self._folder_state():
                self.refresh()
        except OSError as error:
            logger.error("The studies cannot be read: %s", error.strerror)
            raise HTTPException(503, "the folder of the studies cannot be read; try again later") from None

    def _listed(self) -> dict[str, ImageLabelModel]:
        self._refresh_if_changed()
        left_out = self._left_out
        return {id: image for id, image in self._datastore.objects.items() if id + image.image.ext not in left_out}

    def _leave_out(self, reasons: Mapping[str, str]) -> None:
        """Exclude files until they change, and log them together.

        Files that vanished meanwhile are not excluded: they may return unchanged, as all do of a share that was away.
        """
        with self._table:
            present = {name: reason for name, reason in reasons.items() if self._files.is_refused(name)}
            self._left_out = {**self._left_out, **present}
            self._log_left_out()

    def holds(self, image: str) -> bool:
        """Return whether there is an image with this id, even if it is excluded from lists."""
        self._refresh_if_changed()
        return self._name_of(image) is not None

    def _name_of(self, image: str) -> str | None:
        found = self._datastore.objects.get(image)
        return image + found.image.ext if found else None

    def _folder_state(self) -> tuple[list[int], object]:
        """Return the modification times of the folders and the list, and the identities of the excluded files."""
        labels = Path(self._datastore.label_path(None))
        paths = [self._files.folder, labels, *folders_in(labels), Path(self._datastore_config_path)]
        return [path.stat().st_mtime_ns for path in paths if path.exists()], self._files.refused()

    def _check_new_files(self) -> None:
        """Read the files of which scans have read only the first bytes, in batches; run with low priority."""
        lower_priority()
        if not self._checking.acquire(blocking=False):
            return
        try:
            while names := self._files.to_check()[:_FILES_PER_BATCH]:
                found = {name: self._files.check(name, Depth.LENGTH, self._read_uncached) for name in names}
                self._leave_out({name: reason for name, reason in found.items() if reason is not None})
        finally:
            self._checking.release()

    def _reconcile_datastore(self) -> None:
        """Update the list from the files on disk. An excluded image stays in the list."""
        self._init_from_datastore_file()
        images, self._left_out = self._files.scan()
        here = {*images, *self._left_out}
        objects = {id: image for id, image in self._datastore.objects.items() if id + image.image.ext in here}
        known = {id + image.image.ext for id, image in objects.items()}
        new = [name for name in images if name not in known]
        for name in sorted(new, key=lambda name: rank(name, self._files.suffixes)):
            stem, suffix = split_name(name, self._files.suffixes)
            id, suffix = (stem, suffix) if stem not in objects else (name, "")
            if id in objects:
                self._left_out[name] = "its name is the id of another image"
            else:
                objects[id] = ImageLabelModel(image=file_entry(name, suffix))
        changed = objects.keys() != self._datastore.objects.keys()
        self._datastore.objects = objects
        if update_labels(self._datastore, (*self._files.suffixes, RAW_SUFFIX, _REGIONS)) or changed:
            self._write_what_was_found()
        self._log_left_out()

    def _log_left_out(self) -> None:
        """Log how many entries are newly excluded and why, without their names, which can be patients'."""
        new = {name: reason for name, reason in self._left_out.items() if self._logged.get(name) != reason}
        self._logged = dict(self._left_out)
        if new:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in Counter(new.values()).most_common(20))
            logger.warning("%d left out of the studies (%s). GET /datastore/?output=all names them", len(new), reasons)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store a new image.

        Raises:
            ImageExistsError: If an image with this id or a file with this name exists, ignoring case.
            ImageError: If it cannot be read.
            ReadOnlyError: If the folder cannot be written.
        """
        self._check_writable()
        self._read_uncached(Path(image_filename))
        suffix = self._to_id(image_filename)[1]
        name = image_id + suffix
        with self._table:
            self.refresh()
            self._check_free(image_id, name)
            path = self._files.folder / name
            with self._changing(image_id, path):
                copy_atomically(Path(image_filename), path)
                self._datastore.objects[image_id] = ImageLabelModel(image=file_entry(name, suffix, image_info))
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels.

        Raises:
            ReadOnlyError: If the folder cannot be written.
        """
        self._check_writable()
        with self._table:
            super().remove_image(image_id)
            sync(self._files.folder)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label; it replaces the image's label with the same tag.

        Raises:
            ImageError: If it does not lie on the voxels of its image.
        """
        suffix = self._to_id(label_filename)[1]
        if self.holds(image_id) and suffix != _REGIONS:
            check_label_file(Path(label_filename), self._read(Path(self.get_image_uri(image_id))), self._read_uncached)
        self.keep_label(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise ReadOnlyError

    def _check_free(self, image_id: str, name: str) -> None:
        """Raise if a new image cannot have this id, or its file this name."""
        taken = next((id for id in self._datastore.objects if case_folded(id) == case_folded(image_id)), None)
        if taken is not None:
            raise ImageExistsError(
                f"there is an image {taken!r} already: choose another id, or delete it first, with its labels "
                "(DELETE /datastore/image)"
            )
        if case_folded(name) in map(case_folded, os.listdir(self._files.folder)):
            raise ImageExistsError(
                f"there is a file {name!r} in the studies' folder already, listed under another id or left out: "
                "choose another id, or remove the file"
            )
        labels = [label for names in label_files(self._datastore).values() for label in names]
        if case_folded(image_id) in [case_folded(self._to_id(label)[0]) for label in labels]:
            raise ImageExistsError(
                f"there are labels of an earlier image {image_id!r}, whose file is gone: choose another id, or remove "
                "these labels from the labels' folder"
            )

    def _to_id(self, file: str) -> tuple[str, str]:
        """Split a file's name into stem and suffix; upstream removes the suffix anywhere in the name."""
        stem, suffix = split_name(os.path.basename(file), (*self._files.suffixes, RAW_SUFFIX, _REGIONS))
        return stem, suffix

    def _use(self, index: FolderIndex) -> None:
        super()._use(index)
        self._files.folder = Path(index.image_path())

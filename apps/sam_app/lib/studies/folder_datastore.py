"""MONAI Label's datastore of a folder of images, mended.

Mends of MONAI Label 0.8.5, besides those of :mod:`lib.studies.local_store`:

- An image with the id of one that is there takes its place without a word, and keeps its labels.
- A label of whatever size or place is stored as the label of an image.
- Of two files with one stem (``a.nii.gz``, ``a.nii``) one is not listed.
- What is no image is listed and offered as the next sample for ever: folders, empty files, macOS's ``._*``.
- The folder must be writable, and a watcher that some file systems do not support must see what arrives.

Here the folder is looked at again when it is asked for and its time of change, or that of a file that was left out, is
another one. Where it cannot be written, labels and the list are kept elsewhere: see
:mod:`lib.studies.folder_place`.

Concurrency: one lock guards the table of images; a scan, which looks at first bytes, holds it. Files are read in a
thread of its own, without it.
"""

from __future__ import annotations

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
from lib.sam.device_queue import be_nice
from lib.studies.folder_index import FolderIndex, described, find_labels, folded, folders_in, label_files, rank
from lib.studies.local_store import LocalStore, copy_whole
from lib.studies.study_files import Depth, StudyFiles, image_suffixes, split_name

logger = logging.getLogger(__name__)

_REGIONS = ".json"
_SETTLED_S = 2.0
"""A folder that changed less than this before it was looked at can change again within the same tick of its clock."""


_CHECKED_AT_ONCE = 20


class ImageExistsError(HTTPException):
    """409: there is an image of that id, or a file of that name."""

    def __init__(self, detail: str) -> None:
        super().__init__(409, detail)


class ReadOnlyError(HTTPException):
    """409: the images are in a folder that cannot be written."""

    def __init__(self) -> None:
        super().__init__(409, "the studies are read-only: images can be neither added nor removed here")


class FolderDatastore(LocalStore):
    """The images of a folder; an image's id is its file's name without the suffix.

    Of several files with one stem the first (in the order of the settings' suffixes) has the stem for its id, the
    others their whole names.

    Args:
        studies: The folder of the images.
        place: Where the list and the labels are; ``studies`` itself where that can be written.
        read: Reads an image and keeps it for the next click.
        look: Reads an image without keeping it.
        follows: Whether what arrives later is found, too.
        exclusive: As of :class:`LocalStore`.

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
        self._look = look
        self._follows = follows
        self._is_read_only = place != studies
        self._files = StudyFiles(studies, image_suffixes())
        self._extensions = [f"*{suffix}" for suffix in self._files.suffixes]
        self._seen: object = None
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
        """Look at the folder, and have what is new in it read in the background."""
        with self._table:
            started = time.time()
            self._reconcile_datastore()
            state = self._state()
            is_settled = started - max(state[0], default=0) / 1e9 > _SETTLED_S
            self._seen = state if is_settled else None
        if self._files.to_check():
            start_watched("study-files", self._check_new)

    def has_image(self, image: str) -> bool:
        """Whether there is an image of that id, as in :meth:`list_images`."""
        self._follow()
        name = self._name_of(image)
        return name is not None and name not in self._left_out

    def list_images(self) -> list[str]:
        """The ids of the images that can be opened, as far as that is known."""
        return list(self._listed())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The ids of the images with a final label."""
        return [id for id, image in self._listed().items() if image.labels.get(DefaultLabelTag.FINAL)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The ids of the images without a final label."""
        return [id for id, image in self._listed().items() if not image.labels.get(DefaultLabelTag.FINAL)]

    def status(self) -> dict[str, Any]:
        """MONAI Label's counts, and how many entries of the folder are left out."""
        with self._table:
            return {**super().status(), "left_out": len(self._left_out)}

    def json(self) -> dict[str, Any]:
        """MONAI Label's list, and why entries of the folder are left out."""
        with self._table:
            objects = {id: image.model_dump() for id, image in self._listed().items()}
            described = self._datastore.model_dump(exclude={"base_path", "objects"})
            return {**described, "objects": objects, "left_out": dict(self._left_out)}

    def opens(self, image: str) -> bool:
        """Whether an image can be opened; what cannot is not listed any more until its file changes.

        Args:
            image: Its id. It is kept for the next click, too.
        """
        name = self._name_of(image)
        if name is None:
            return False
        reason = self._files.check(name, Depth.ALL, self._read)
        if reason is not None:
            self._leave_out({name: reason})
        return reason is None

    def _follow(self) -> None:
        """Look at the folder again if it changed."""
        try:
            if self._follows and self._seen != self._state():
                self.refresh()
        except OSError as error:
            logger.error("The studies cannot be read: %s", error.strerror)
            raise HTTPException(503, "the folder of the studies cannot be read now") from None

    def _listed(self) -> dict[str, ImageLabelModel]:
        self._follow()
        left_out = self._left_out
        return {id: image for id, image in self._datastore.objects.items() if id + image.image.ext not in left_out}

    def _leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave files out until they change, and say so once for all of them."""
        with self._table:
            self._left_out = {**self._left_out, **reasons}
            self._log_left_out()

    def holds(self, image: str) -> bool:
        """Whether there is an image of that id, also one that is left out."""
        self._follow()
        return self._name_of(image) is not None

    def _name_of(self, image: str) -> str | None:
        found = self._datastore.objects.get(image)
        return image + found.image.ext if found else None

    def _state(self) -> tuple[list[int], object]:
        """The times at which the folders and the list changed; and what tells of files that were left out."""
        labels = Path(self._datastore.label_path(None))
        paths = [self._files.folder, labels, *folders_in(labels), Path(self._datastore_config_path)]
        return [path.stat().st_mtime_ns for path in paths if path.exists()], self._files.refused()

    def _check_new(self) -> None:
        """Read what scans have only looked at, some at a time; the thread that does it goes last."""
        be_nice()
        if not self._checking.acquire(blocking=False):
            return
        try:
            while names := self._files.to_check()[:_CHECKED_AT_ONCE]:
                found = {name: self._files.check(name, Depth.LENGTH, self._look) for name in names}
                self._leave_out({name: reason for name, reason in found.items() if reason is not None})
        finally:
            self._checking.release()

    def _reconcile_datastore(self) -> None:
        """Bring the list to what there is on the disk. An image that is left out keeps its place in it."""
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
                objects[id] = ImageLabelModel(image=described(name, suffix))
        changed = objects.keys() != self._datastore.objects.keys()
        self._datastore.objects = objects
        if find_labels(self._datastore, (*self._files.suffixes, RAW_SUFFIX, _REGIONS)) or changed:
            self._write_what_was_found()
        self._log_left_out()

    def _log_left_out(self) -> None:
        """Say how many are left out and why, without their names: those can be patients'."""
        new = {name: reason for name, reason in self._left_out.items() if self._logged.get(name) != reason}
        self._logged = dict(self._left_out)
        if new:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in Counter(new.values()).most_common(20))
            logger.warning("%d left out of the studies (%s). GET /datastore/?output=all names them", len(new), reasons)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Keep a new image.

        Raises:
            ImageExistsError: If there is one of that id, or a file of that name, whatever the case of its letters.
            ImageError: If it cannot be read.
            ReadOnlyError: If the folder cannot be written.
        """
        self._check_writable()
        self._look(Path(image_filename))
        suffix = self._to_id(image_filename)[1]
        name = image_id + suffix
        with self._table:
            self.refresh()
            self._check_free(image_id, name)
            path = self._files.folder / name
            with self._changing(image_id, path):
                copy_whole(Path(image_filename), path)
                self._datastore.objects[image_id] = ImageLabelModel(image=described(name, suffix, image_info))
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
        """Keep a label in place of the one of that tag.

        Raises:
            ImageError: If it does not lie on the voxels of its image.
        """
        suffix = self._to_id(label_filename)[1]
        if self.holds(image_id) and suffix != _REGIONS:
            check_label_file(Path(label_filename), self._read(Path(self.get_image_uri(image_id))), self._look)
        self.keep_label(image_id, Path(label_filename), label_tag, label_info)
        return image_id

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise ReadOnlyError

    def _check_free(self, image_id: str, name: str) -> None:
        """Raise unless a new image can have that id and its file that name."""
        taken = next((id for id in self._datastore.objects if folded(id) == folded(image_id)), None)
        if taken is not None:
            raise ImageExistsError(
                f"there is an image {taken!r}: choose another id or, to replace it, delete it first, with its labels "
                "(DELETE /datastore/image)"
            )
        if folded(name) in map(folded, os.listdir(self._files.folder)):
            raise ImageExistsError(
                f"there is a file {name!r} in the studies' folder, which is served under another id or left out: "
                "choose another id, or remove it there"
            )
        labels = [label for names in label_files(self._datastore).values() for label in names]
        if folded(image_id) in [folded(self._to_id(label)[0]) for label in labels]:
            raise ImageExistsError(
                f"there are labels of an earlier image {image_id!r}, whose file is gone: choose another id, or remove "
                "them from the folder of the labels"
            )

    def _to_id(self, file: str) -> tuple[str, str]:
        """A file's name without the suffix, and that; upstream takes the suffix out wherever it is in the name."""
        stem, suffix = split_name(os.path.basename(file), (*self._files.suffixes, RAW_SUFFIX, _REGIONS))
        return stem, suffix

    def _use(self, index: FolderIndex) -> None:
        super()._use(index)
        self._files.folder = Path(index.image_path())

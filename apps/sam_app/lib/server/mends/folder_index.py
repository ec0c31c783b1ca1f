"""The list of a folder's images and labels, in MONAI Label's own file.

Mend: MONAI Label 0.8.5 writes it in place, so that half of one can stay, with which it ends with a stack trace; and it
takes the list's folder for that of the images.
"""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, LocalDatastoreModel
from pydantic import PrivateAttr

from lib.server.study_files import PART, is_text, split_name


class StudiesError(ValueError):
    """The folder of studies cannot be served; the message says why and what would do."""


class FolderIndex(LocalDatastoreModel):
    """MONAI Label's list of images and labels, which can lie elsewhere than the images."""

    _studies: str = PrivateAttr("")

    def image_path(self) -> str:
        """The folder of the images."""
        return os.path.join(self._studies, self.images_dir)


def new_index(studies: Path, place: Path) -> FolderIndex:
    """A list without images.

    Args:
        studies: The folder of the images.
        place: That of the list and the labels.
    """
    return _placed(FolderIndex(name="new-dataset", description="New Dataset", images_dir="."), studies, place)


def read_index(path: Path, studies: Path) -> FolderIndex:
    """The list in a file.

    Raises:
        StudiesError: If it is damaged.
        OSError: If it cannot be read.
    """
    try:
        return _placed(FolderIndex.model_validate_json(path.read_bytes()), studies, path.parent)
    except ValueError:
        raise StudiesError(
            f"the list of the images, {path}, is damaged; restore it, or remove it to have it made anew without what "
            "is noted of images and labels"
        ) from None


def write_index(index: LocalDatastoreModel, path: Path) -> float:
    """Write the list aside, then into its place; answers the file's time of change."""
    aside = path.with_name(PART)
    try:
        aside.write_text(json.dumps(index.model_dump(exclude={"base_path"}), indent=2, default=str))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path.stat().st_mtime


def _placed(index: FolderIndex, studies: Path, place: Path) -> FolderIndex:
    index.base_path = str(place)
    index._studies = str(studies)
    return index


def label_files(index: LocalDatastoreModel) -> dict[str, list[str]]:
    """The names of the labels' files by tag, sorted."""
    folders = [folder for folder in folders_in(Path(index.label_path(None))) if is_text(folder.name)]
    return {folder.name: sorted(one.name for one in os.scandir(folder) if one.is_file()) for folder in folders}


def find_labels(index: LocalDatastoreModel, suffixes: Sequence[str]) -> bool:
    """Have the images have the labels whose files there are; whether anything changed."""
    files = {tag: dict.fromkeys(names) for tag, names in label_files(index).items()}
    changed = False
    for id, image in index.objects.items():
        labels = {tag: label for tag, label in image.labels.items() if id + label.ext in files.get(tag, ())}
        changed |= len(labels) < len(image.labels)
        image.labels = labels
    for tag, names in files.items():
        for name in names:
            id, suffix = split_name(name, suffixes)
            if suffix and id in index.objects and tag not in index.objects[id].labels:
                image = index.objects[id]
                image.labels = {**image.labels, tag: described(name, suffix)}
                changed = True
    return changed


def described(name: str, suffix: str, info: Mapping[str, Any] | None = None) -> DataModel:
    """A file for the list, with what is known of it."""
    return DataModel(info={**(info or {}), "ts": int(time.time()), "name": name}, ext=suffix)


def folders_in(folder: Path) -> Iterator[Path]:
    """The folders in a folder; none if that is not there."""
    if folder.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())


def folded(name: str) -> str:
    """What two names have in common that are one on some file system: case, and how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

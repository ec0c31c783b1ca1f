"""The list of a folder's images and labels, in MONAI Label's own file.

Mend: MONAI Label 0.8.5 takes the list's folder for that of the images, and ends with a stack trace if anything in it is
of another type than it wrote.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel
from pydantic import PrivateAttr

from lib.base.files import link_or_copy, replacing
from lib.studies.storable import is_text as is_valid_text
from lib.studies.storable import regular_info
from lib.studies.study_files import is_text, split_name


class StudiesError(ValueError):
    """The folder of studies cannot be served; the message says why and what would do."""


class DamagedListError(ValueError):
    """The list of the images is none."""


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


def read_index(path: Path, studies: Path) -> tuple[FolderIndex, list[str]]:
    """The list in a file, without what is odd in it.

    Args:
        path: Of the file.
        studies: The folder of the images.

    Returns:
        The list; and what was left out of it, in words that name no image.

    Raises:
        DamagedListError: If it is no such list at all.
        OSError: If it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("objects", {}), dict):
        raise DamagedListError(f"{path.name} is damaged")
    odd: list[str] = []
    texts = {key: found[key] for key in ("name", "description", "images_dir", "labels_dir") if key in found}
    odd += [f"{key} is no text" for key, text in texts.items() if not is_valid_text(text)]
    index = new_index(studies, path.parent).model_copy(
        update={key: text for key, text in texts.items() if is_valid_text(text)}
    )
    for id, entry in found.get("objects", {}).items():
        image = _image(entry, odd) if is_valid_text(id) else None
        if image is None:
            odd.append("the entry of an image")
        else:
            index.objects[id] = image
    return index, odd


def _image(entry: object, odd: list[str]) -> ImageLabelModel | None:
    """An image of the list, without what is odd of it; None if it is that altogether: its file says the rest."""
    image = _file(entry.get("image"), "image info", odd) if isinstance(entry, dict) else None
    if image is None or not isinstance(entry, dict):
        return None
    labels = entry.get("labels", {})
    if not isinstance(labels, dict):
        odd.append("the labels of an image")
        labels = {}
    files = {tag: _file(label, "label info", odd) for tag, label in labels.items() if is_valid_text(tag)}
    odd += ["the entry of a label"] * sum(file is None for file in [*files.values()])
    return ImageLabelModel(image=image, labels={tag: file for tag, file in files.items() if file is not None})


def _file(entry: object, what: str, odd: list[str]) -> DataModel | None:
    """A file of the list, without what is odd of it; None if it is that altogether."""
    if not isinstance(entry, dict) or not is_valid_text(entry.get("ext", "")):
        return None
    info, faults = regular_info(entry.get("info", {}))
    odd += [f"{what}: {fault}" for fault in faults]
    return DataModel(ext=entry.get("ext", ""), info=info)


def keep_damaged(path: Path) -> str:
    """Keep the list as it is beside itself; returns the name under which it is."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        try:
            link_or_copy(path, kept)
        except FileExistsError:
            continue
        return kept.name
    raise AssertionError


def write_index(index: LocalDatastoreModel, path: Path) -> float:
    """Write the list, which then outlives the machine's power; returns the file's time of change."""
    with replacing(path) as file:
        file.write(json.dumps(index.model_dump(exclude={"base_path"}), indent=2, default=str).encode())
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
    """Have the images have the labels whose files there are; whether anything changed.

    Args:
        index: The list.
        suffixes: Of labels' names, those first that count where there are several files.
    """
    files = {tag: dict.fromkeys(names) for tag, names in label_files(index).items()}
    changed = False
    for id, image in index.objects.items():
        labels = {tag: label for tag, label in image.labels.items() if id + label.ext in files.get(tag, ())}
        changed |= len(labels) < len(image.labels)
        image.labels = labels
    for tag, names in files.items():
        for name in sorted(names, key=lambda name: rank(name, suffixes)):
            id, suffix = split_name(name, suffixes)
            if suffix and id in index.objects and tag not in index.objects[id].labels:
                image = index.objects[id]
                image.labels = {**image.labels, tag: described(name, suffix)}
                changed = True
    return changed


def rank(name: str, suffixes: Sequence[str]) -> tuple[int, str]:
    """Sorts names of files by their suffixes, in the order of these, then by themselves."""
    suffix = split_name(name, suffixes)[1].lower()
    known = [one.lower() for one in suffixes]
    return known.index(suffix) if suffix else len(known), name


def described(name: str, suffix: str, info: Mapping[str, Any] | None = None) -> DataModel:
    """A file for the list, with what is known of it."""
    regular, _ = regular_info(dict(info or {}))
    return DataModel(info={**regular, "ts": int(time.time()), "name": name}, ext=suffix)


def folders_in(folder: Path) -> Iterator[Path]:
    """The folders in a folder; none if that is not there."""
    if folder.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())


def folded(name: str) -> str:
    """What two names have in common that are one on some file system: case, and how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

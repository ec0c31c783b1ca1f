"""The list of a folder's images and labels, in MONAI Label's own file.

Fix: MONAI Label 0.8.5 requires the images in the list's folder, and ends with a stack trace if a value in the list has
an unexpected type.
"""

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

from lib.base.files import atomic_write, link_or_copy
from lib.studies.storable import is_text, valid_info
from lib.studies.study_files import split_name


class StudiesError(ValueError):
    """The folder of studies cannot be served; the message gives the reason and a solution."""


class DamagedListError(ValueError):
    """The file of the list of images does not contain such a list."""


class FolderIndex(LocalDatastoreModel):
    """MONAI Label's list of images and labels, which can be in another folder than the images."""

    _studies: str = PrivateAttr("")
    _replaced: str = PrivateAttr("")
    """Not yet deleted file of a label that was replaced by one with another suffix, as read: ``<tag>/<name>``."""

    def image_path(self) -> str:
        """Return the folder of the images."""
        return os.path.join(self._studies, self.images_dir)


def new_index(studies: Path, place: Path) -> FolderIndex:
    """Return a new list without images; ``place`` is the folder of the list and the labels."""
    index = FolderIndex(name="new-dataset", description="New Dataset", images_dir=".")
    index.base_path, index._studies = str(place), str(studies)
    return index


def read_index(path: Path, studies: Path) -> tuple[FolderIndex, list[str]]:
    """Read the list from a file, without its invalid values.

    Args:
        path: Path of the file.
        studies: The folder of the images.

    Returns:
        The list; and descriptions of the invalid values, which name no image.

    Raises:
        DamagedListError: If the file does not contain such a list at all.
        OSError: If it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("objects", {}), dict):
        raise DamagedListError(f"{path.name} is damaged")
    problems: list[str] = []
    replaced = found.get("replaced")
    texts = {key: found[key] for key in ("name", "description", "images_dir", "labels_dir") if key in found}
    problems += [f"{key} is not text" for key, text in texts.items() if not is_text(text)]
    index = new_index(studies, path.parent).model_copy(
        update={key: text for key, text in texts.items() if is_text(text)}
    )
    index._replaced = replaced if is_text(replaced) else ""
    for id, entry in found.get("objects", {}).items():
        image = _image(entry, problems) if is_text(id) else None
        if image is None:
            problems.append("the entry of an image")
        else:
            index.objects[id] = image
    return index, problems


def _image(entry: object, problems: list[str]) -> ImageLabelModel | None:
    """Read an image's entry without its invalid values; None if the entry is unusable and must be remade from files."""
    image = _file(entry.get("image"), "image info", problems) if isinstance(entry, dict) else None
    if image is None or not isinstance(entry, dict):
        return None
    labels = entry.get("labels", {})
    if not isinstance(labels, dict):
        problems.append("the labels of an image")
        labels = {}
    files = {tag: _file(label, "label info", problems) for tag, label in labels.items() if is_text(tag)}
    problems += ["the entry of a label"] * sum(file is None for file in [*files.values()])
    return ImageLabelModel(image=image, labels={tag: file for tag, file in files.items() if file is not None})


def _file(entry: object, what: str, problems: list[str]) -> DataModel | None:
    """Read a file's entry without its invalid values; None if the entry is unusable."""
    if not isinstance(entry, dict) or not is_text(entry.get("ext", "")):
        return None
    info, faults = valid_info(entry.get("info", {}))
    problems += [f"{what}: {fault}" for fault in faults]
    return DataModel(ext=entry.get("ext", ""), info=info)


def save_damaged_copy(path: Path) -> str:
    """Save a copy of the damaged list in its folder, and return the copy's name."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        try:
            link_or_copy(path, kept)
        except FileExistsError:
            continue
        return kept.name
    raise AssertionError


def write_index(index: LocalDatastoreModel, path: Path, replaced: str = "") -> float:
    """Write the list so that it survives a power cut, and return the file's modification time.

    Args:
        index: The list.
        path: Its file.
        replaced: File of a label that is deleted next, as in :class:`FolderIndex`.
    """
    content = index.model_dump_json(exclude={"base_path"}, indent=2, fallback=str)  # 13 times as fast as by json
    if replaced:
        content = content.removesuffix("\n}") + f',\n  "replaced": {json.dumps(replaced)}\n}}'
    with atomic_write(path) as file:
        file.write(content.encode())
    return path.stat().st_mtime


def label_files(index: LocalDatastoreModel) -> dict[str, list[str]]:
    """Return the names of the labels' files by tag, sorted."""
    folders = [folder for folder in folders_in(Path(index.label_path(None))) if is_text(folder.name)]
    return {folder.name: sorted(one.name for one in os.scandir(folder) if one.is_file()) for folder in folders}


def update_labels(index: LocalDatastoreModel, suffixes: Sequence[str]) -> bool:
    """Update the labels in the list from the files on disk, and return whether anything changed.

    Args:
        index: The list.
        suffixes: Suffixes of labels' names, in order of preference if an image has several files.
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
                image.labels = {**image.labels, tag: file_entry(name, suffix)}
                changed = True
    return changed


def rank(name: str, suffixes: Sequence[str]) -> tuple[int, str]:
    """Return a sort key for file names: first the position of their suffix in ``suffixes``, then the name."""
    suffix = split_name(name, suffixes)[1].lower()
    known = [one.lower() for one in suffixes]
    return known.index(suffix) if suffix else len(known), name


def file_entry(name: str, suffix: str, info: Mapping[str, Any] | None = None) -> DataModel:
    """Return a file's entry for the list, with the valid values of ``info``."""
    regular, _ = valid_info(dict(info or {}))
    return DataModel(info={**regular, "ts": int(time.time()), "name": name}, ext=suffix)


def folders_in(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder; none if it does not exist."""
    if folder.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())


def case_folded(name: str) -> str:
    """Return a name without the differences that some file systems ignore: case, and how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

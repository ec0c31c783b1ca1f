"""Checks of what clients send to MONAI Label's routes: each function returns the value to use, or raises.

Image ids must be known to the datastore. Names that a client chooses become file names, so they must stay within their
folder. Errors are 404 for what does not exist and 422 for invalid values.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException, UploadFile
from monailabel.interfaces.utils.app import app_instance

from lib.base.plain_text import is_plain
from lib.base.scratch import scratch_file
from lib.dicomweb.datastore import DicomWebStore
from lib.server.http.errors import UnknownImageError
from lib.server.http.forms import not_empty
from lib.server.observe.image_facts import note_datastore_image, note_uploads
from lib.studies.folder_datastore import FolderDatastore
from lib.studies.storable import check_info, check_storable
from lib.studies.study_files import image_suffixes, split_name

_MAX_NAME_BYTES = 200  # a file system's 255, minus what is added to a name
_MAX_TAG_LENGTH = 64
_LABEL_SUFFIXES = (".bin", ".json")  # OHIF's raw labels, and Slicer's regions of interest


def known_image(image: str) -> str:
    """Return the id if the datastore has it; on a DICOMweb server: a Series Instance UID, fetched or on the server.

    Raises:
        UnknownImageError: For everything else, including paths.
    """
    datastore = app_instance().datastore()
    if isinstance(datastore, (DicomWebStore, FolderDatastore)):
        known = datastore.has_image(image)
    else:
        known = image in datastore.list_images()
    if not known:
        raise UnknownImageError(f"the datastore has no image {image!r}")
    note_datastore_image(image)
    return image


def stored_image(image: str) -> str:
    """Return the id as :func:`known_image` does, also of an image that cannot be opened."""
    datastore = app_instance().datastore()
    if isinstance(datastore, FolderDatastore) and datastore.holds(image) and not datastore.has_image(image):
        return image
    return known_image(image)


def plain_name(name: str) -> str:
    """Return a file name that stays within its folder: one line in any language, no separators, no leading dot."""
    return _checked_name(name, "a name", f"{_MAX_NAME_BYTES} bytes", is_short=True)


def _checked_name(text: str, what: str, most: str, *, is_short: bool) -> str:
    is_name = is_plain(text) and not text.startswith(".") and not set("/\\") & set(text)
    if not is_name or not is_short or len(text.encode()) > _MAX_NAME_BYTES:
        raise HTTPException(
            422,
            f"{what} must be one line of 1 to {most} without '/', '\\' and characters that control how it is shown, "
            "and must not begin with '.'",
        )
    return text


def new_image_id(image: str | None) -> str | None:
    """Return the id for a new image; None to name it after its file."""
    return plain_name(image) if image else None


def named_image(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a new image with its id: upstream takes all after a name's first dot for the suffix."""
    image = arguments["image"] or split_name(arguments["file"].filename, image_suffixes())[0]
    return {**arguments, "image": image}


def image_upload(file: UploadFile) -> UploadFile:
    """Return an uploaded image under a plain name, of a type that a folder of images may contain."""
    if isinstance(app_instance().datastore(), DicomWebStore):
        raise HTTPException(422, "the images are on a DICOMweb server: store new ones there")
    file.filename = plain_name(_last_part(file.filename))
    _suffix(file.filename, image_suffixes())
    note_uploads([not_empty(file)])
    return file


def label_upload(label: UploadFile) -> UploadFile:
    """Return an uploaded label under a neutral name; only its type matters."""
    label.filename = "label" + _suffix(_last_part(label.filename), (*image_suffixes(), *_LABEL_SUFFIXES))
    return not_empty(label)


def neutral_upload(file: UploadFile | None) -> UploadFile | None:
    """Return an upload under a neutral name with at most two plain suffixes: its content determines its type."""
    if file is not None:
        found = re.search(r"(\.[A-Za-z0-9]{1,8}){0,2}$", _last_part(file.filename))
        file.filename = "upload" + (found.group() if found else "")
        not_empty(file)
    return file


def on_disk(upload: UploadFile) -> str:
    """Write an upload to a scratch file with its name's suffixes, for as long as the request; returns the path."""
    path = scratch_file("".join(Path(upload.filename or "").suffixes))
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path


def _last_part(filename: str | None) -> str:
    """Return the file name of a client's path, as MONAILabelClient sends it from any operating system."""
    return re.split(r"[/\\]", filename or "")[-1]


def _suffix(name: str, allowed: tuple[str, ...]) -> str:
    found = split_name(f"_{name}", allowed)[1]
    if not found:
        raise HTTPException(422, f"the file's name must end with one of {', '.join(allowed)}")
    return found


def label_tag(tag: str) -> str:
    """Return a label's tag, which names a folder; ``final`` if it is empty."""
    if not tag:
        return "final"
    is_short = len(tag) <= _MAX_TAG_LENGTH
    return _checked_name(tag, "tag and label_tag", f"{_MAX_TAG_LENGTH} characters", is_short=is_short)


def without_path(info: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of an image or a label without its path on the server."""
    return {key: value for key, value in info.items() if key != "path"}


def json_object(text: str) -> str:
    """Return JSON text to store; its ``name``, under which viewers store files, must be plain."""
    parsed = parsed_object(text)
    check_info(parsed)
    if "name" in parsed:
        plain_name(parsed["name"])
    return json.dumps(parsed)


def parsed_object(text: str) -> dict[str, Any]:
    """Return the object in JSON text, see :func:`check_storable`; an empty object for empty text."""
    try:
        parsed = json.loads(text or "{}")
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise HTTPException(422, "params and info must be a JSON object")
    check_storable(parsed)
    return parsed

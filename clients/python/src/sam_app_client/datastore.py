"""Operations on the server's datastore."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sam_app_client.base import BaseClient
from sam_app_client.exchange import Operation, Request, as_json, ask
from sam_app_client.files import File, ImageInput, image_file, mask_file
from sam_app_client.results import SegmentedImage, StoredImage, Volume

LabelInput: TypeAlias = Volume | SegmentedImage | str | os.PathLike[str] | npt.NDArray[Any]
"""A label to store: of a volume, of an image, a file, or an array ``(rows, columns)`` of bool or whole numbers."""


def images(client: BaseClient[Any]) -> Operation[list[StoredImage]]:
    """Return the images of the datastore with their labels.

    Of a DICOMweb server these are the series that were opened before; any other is ``StoredImage(SERIES_UID)``.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If the server does not tell.
    """
    answer = yield from ask(Request("GET", "/datastore/", {"output": "all"}))
    objects = answer.json()["objects"]
    return [
        StoredImage(
            id,
            str(one["image"]["info"].get("name", "")),
            {tag: _names(label["info"]) for tag, label in one["labels"].items()},
        )
        for id, one in sorted(objects.items())
    ]


def upload_image(client: BaseClient[Any], image: ImageInput, name: str | None = None) -> Operation[StoredImage]:
    """Store an image in the datastore; needs the role annotator where there is a login.

    Args:
        image: The image. Bytes are refused, as the server wants to know from the file's name what they are.
        name: Its id; without it, and for a path alone, its file's name without suffix.

    Raises:
        ApiError: If the server refuses it, for instance as there is an image of this name already.
        ConnectionFailedError, VersionMismatchError: If it cannot be asked.
        OSError: If the file cannot be read.
        TypeError, ValueError: If the image is none that can be sent, or has no name.
    """
    if isinstance(image, bytes):
        raise TypeError("give a path instead of bytes, so that the kind of file is known")
    if name is None and not isinstance(image, (str, os.PathLike)):
        raise ValueError("give the image a name")
    file = image_file(image)
    query = {} if name is None else {"image": name}
    answer = yield from ask(Request("PUT", "/datastore/image", query, files=[("file", file)]))
    return StoredImage(answer.json()["image"])


def download_image(client: BaseClient[Any], image: StoredImage) -> Operation[bytes]:
    """Return the file of an image as it is stored; a series of a DICOMweb server comes as NIfTI.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If the server does not send it.
    """
    answer = yield from ask(Request("GET", "/datastore/image", {"image": image.id}))
    return answer.content


def download_label(client: BaseClient[Any], image: StoredImage, tag: str = "final") -> Operation[bytes]:
    """Return the file of a label as it is stored.

    Args:
        image: Whose label.
        tag: Which of its labels.

    Raises:
        ApiError, ConnectionFailedError, VersionMismatchError: If the server does not send it.
    """
    answer = yield from ask(Request("GET", "/datastore/label", {"label": image.id, "tag": tag}))
    return answer.content


def save_label(
    client: BaseClient[Any],
    image: StoredImage,
    label: LabelInput,
    *,
    names: Mapping[int, str] | None = None,
    tag: str = "final",
) -> Operation[None]:
    """Store a label with an image of the datastore; needs the role annotator where there is a login.

    Args:
        image: Whose label it is.
        label: The label. One of a volume as an array alone has no place: ``volume.with_mask(array)`` gives it one.
        names: What its numbers are: ``{1: "spleen"}``.
        tag: Under which it is stored; models learn from ``final`` ones.

    Raises:
        ApiError: If the server refuses it.
        ConnectionFailedError, VersionMismatchError: If it cannot be asked.
        OSError: If the file cannot be read.
        TypeError, ValueError: If the label is none that can be sent.
    """
    params = {"label_info": [{"name": name, "idx": number} for number, name in (names or {}).items()]}
    yield from ask(
        Request(
            "PUT",
            "/datastore/label",
            {"image": image.id, "tag": tag},
            form={"params": as_json(params)},
            files=[("label", label_file(label))],
        )
    )


def label_file(label: LabelInput) -> File:
    """Return a label as a file.

    Raises:
        ValueError: If it is an array with the label of a volume, which has no place.
    """
    if isinstance(label, Volume):
        return File("label.nrrd", label.nrrd())
    array = label.mask if isinstance(label, SegmentedImage) else label
    if isinstance(array, np.ndarray) and array.ndim != 2:
        raise ValueError("an array with the label of a volume has no place: give volume.with_mask(array), or a file")
    return mask_file(array, "label")


def _names(info: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of a label's objects by their numbers; entries without either are left out."""
    known = [one for one in info.get("label_info") or () if isinstance(one, dict)]
    return {one["idx"]: str(one["name"]) for one in known if isinstance(one.get("idx"), int) and one.get("name")}

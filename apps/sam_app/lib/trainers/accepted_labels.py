"""The accepted labels of a datastore: its final ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.learning.accepted import AcceptedLabel


def accepted_labels(datastore: Datastore, study_pattern: str = "(.*)") -> Iterator[AcceptedLabel]:
    """Yield the images with a final label; proposals that a model saved under other tags are none.

    Args:
        datastore: A folder's, or that of a DICOMweb server.
        study_pattern: Regular expression for an image's id, whose first group names its study or patient, for folders
            in which the slices of one patient are files of their own.
    """
    for image in sorted(datastore.get_labeled_images()):
        label = datastore.get_label_by_image_id(image, DefaultLabelTag.FINAL)
        path = datastore.get_label_uri(label, DefaultLabelTag.FINAL) if label else ""
        if not path:
            continue
        info = datastore.get_label_info(label, DefaultLabelTag.FINAL)
        match = re.match(study_pattern, image)
        study = match.group(1) if match and match.groups() else image
        yield AcceptedLabel(study, Path(datastore.get_image_uri(image)), Path(path), label_set(info))


def label_set(info: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of a label's numbers, as the client sent them: ``label_info`` or its ``params``.

    An item is ``{"name": …, "idx": …}``; without an ``idx`` it is numbered by its place, from 1.
    """
    params = info.get("params")
    items = info.get("label_info") or (params.get("label_info") if isinstance(params, Mapping) else None)
    names: dict[int, str] = {}
    for place, item in enumerate(items if isinstance(items, list) else [], start=1):
        if isinstance(item, Mapping) and isinstance(item.get("name"), str) and item["name"].strip():
            number = item.get("idx")
            names[int(number) if isinstance(number, int) else place] = item["name"].strip()
    return names

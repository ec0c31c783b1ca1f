"""The accepted labels of a datastore: its final ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.dicomweb.connection import DicomWebError
from lib.imaging.image import ImageError
from lib.learning.job import AcceptedLabel

logger = logging.getLogger(__name__)


def accepted_labels(datastore: Datastore, study_pattern: str = "(.*)") -> Iterator[AcceptedLabel]:
    """Yield the images with a final label; proposals that a model saved under other tags are none.

    Of a DICOMweb server, series and Segmentations are fetched.

    Args:
        datastore: A folder's, or that of a DICOMweb server.
        study_pattern: Regular expression for an image's id, whose first group names its study or patient, for folders
            in which the slices of one patient are files of their own.
    """
    for image in sorted(datastore.get_labeled_images()):
        try:
            path = datastore.get_label_uri(image, DefaultLabelTag.FINAL)
            if not path:
                continue
            file = datastore.get_image_uri(image)
            names = label_set(datastore.get_label_info(image, DefaultLabelTag.FINAL))
        except (ImageError, DicomWebError) as error:
            logger.warning("A label is not learned from: %s", error)
            continue
        yield AcceptedLabel(study_of(image, study_pattern), Path(file), Path(path), names)


def study_of(image: str, study_pattern: str) -> str:
    """Return the study that an image's id names."""
    match = re.match(study_pattern, image)
    return match.group(1) if match and match.group(1) else image


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

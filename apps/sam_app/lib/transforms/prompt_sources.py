"""Prompts without clicks: made from the image's label, or none at all, for automatic segmentation."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lib.imaging.labels.label_grid import labels_of_file
from lib.imaging.labels.slice_labels import SliceLabels
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.sam.prompts import PromptError, Prompts
from lib.transforms.load import LoadMedicalImage
from lib.transforms.request import REQUEST, SegmentRequest, Source, ViewerPrompts
from lib.transforms.viewer_options import one_of
from lib.transforms.viewer_prompts import volume_prompts

PROMPT_SOURCES = (Source.LABELS, Source.AUTOMATIC)
"""Sources that a client can choose instead of sending prompts."""

_MAX_VALUE = 255


def as_prompt_source(value: Any, name: str) -> Source | None:
    """Convert a value to one of :data:`PROMPT_SOURCES`; None for None.

    Raises:
        PromptError: If it is not one of them.
    """
    return None if value is None else Source(one_of(value, name, PROMPT_SOURCES))


def inner_points(mask: np.ndarray) -> list[tuple[float, float]]:
    """Return one point in each connected piece of a mask: the one farthest from its border.

    Args:
        mask: ``(rows, columns)`` bool; pixels are connected over edges and corners.

    Returns:
        XY pixels, the largest piece's point first.
    """
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = ndimage.sum_labels(mask, pieces, range(1, count + 1))
    found = []
    for number in np.argsort(-sizes, kind="stable") + 1:
        depth = ndimage.distance_transform_edt(np.pad(pieces == number, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        found.append((float(x), float(y)))
    return found


def label_prompts(labels: np.ndarray) -> tuple[int, dict[int, Prompts]]:
    """Return prompts on the slice with the most labelled pixels: for each label the inner points of its pieces.

    Args:
        labels: ``(K, rows, columns)`` numbers, 0 for background.

    Returns:
        ``k``, and the prompts by label; the middle slice and no prompts if nothing is labelled.

    Raises:
        PromptError: If a label is not a whole number from 1 to 255.
    """
    areas = np.count_nonzero(labels, axis=(1, 2))
    if not areas.any():
        return len(labels) // 2, {}
    k = int(areas.argmax())
    values = np.unique(labels[k][labels[k] != 0])
    if (values != values.astype(np.uint8)).any():
        raise PromptError(f"a label that is used as prompts must hold whole numbers from 1 to {_MAX_VALUE}")
    return k, {int(value): Prompts.from_clicks(inner_points(labels[k] == value)) for value in values}


def labels_that_prompt(data: Mapping[Hashable, Any], load: LoadMedicalImage) -> np.ndarray:
    """Return the voxels of the request's prompting label on the grid of ``image``.

    Returns:
        ``(K, rows, columns)`` label numbers.

    Raises:
        PromptError: If the image has no label.
        ImageError: If the label does not lie on the image.
    """
    request: SegmentRequest = data[REQUEST]
    if not request.prompting_label:
        raise PromptError("the image has no label that can be used as prompts")
    return labels_of_file(Path(request.prompting_label), data["image"], load)


class PromptSourced:
    """Add ``slice``, ``slice_source``, ``objects``, an empty ``earlier`` and ``label_values`` from the image's label.

    ``label_values`` are the objects' numbers in the label. For automatic segmentation both lists are empty, and the
    slice is the middle one.

    Args:
        load: Reads the label.
    """

    def __init__(self, load: LoadMedicalImage) -> None:
        self._load = load

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the prompts.

        Raises:
            PromptError: If the image has no label.
            ImageError: If the label does not lie on the image.
        """
        request: SegmentRequest = data[REQUEST]
        k: int = data["image"].frame_count // 2
        objects: dict[int, Prompts] = {}
        if request.source is Source.LABELS:
            k, objects = label_prompts(labels_that_prompt(data, self._load))
        result = {**data, "slice": k, "slice_source": str(request.source)}
        result.update(objects=list(objects.values()), start=None, beside=[], earlier=[], label_values=list(objects))
        return result


class LabelVolumePromptsd:
    """Add ``volume_prompts`` for one object in a volume, from ``image`` and its label.

    Args:
        load: Reads the label.
        limits: A request with more points and rectangles is refused.
    """

    def __init__(self, load: LoadMedicalImage, limits: Limits = DEFAULT_LIMITS) -> None:
        self._load = load
        self.limits = limits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the points.

        Raises:
            PromptError: For another source, or unless the image has a label with exactly one object.
            ImageError: If the label does not lie on the image.
        """
        request: SegmentRequest = data[REQUEST]
        if request.source is not Source.LABELS:
            raise PromptError(f"through a volume, prompts must be {Source.LABELS}")
        k, objects = label_prompts(labels_that_prompt(data, self._load))
        if len(objects) != 1:
            raise PromptError(
                f"through a volume, one object is followed, but the label has {len(objects)} on slice {k}"
            )
        [(value, prompts)] = objects.items()
        self.limits.check_prompts(len(prompts.points))
        clicks = ViewerPrompts(foreground=[(x, y, k) for x, y in prompts.points.tolist()])
        found = volume_prompts(data["image"], clicks, request.options.box_from_points)
        return {**data, "volume_prompts": found, "beside": {}, "label_values": [value]}


class RestoreValuesd:
    """Renumber the objects of ``pred`` as in the label from which the prompts were made, by ``label_values``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Renumber the objects."""
        result = dict(data)
        values = result.get("label_values")
        if values:
            pred: SliceLabels = result["pred"]
            result["pred"] = pred.renumbered(values)
        return result

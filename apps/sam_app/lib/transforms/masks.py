"""From the model's candidates to a label map, and back into the volume they belong to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import FillHoles, KeepLargestConnectedComponent, Transform

from lib.imaging.image import MedicalImage
from lib.imaging.slice_labels import SliceLabels
from lib.sam.predictor import Prediction


def merge_objects(predictions: Sequence[Prediction], size: tuple[int, int], candidate: int = 0) -> np.ndarray:
    """One candidate mask of each object in one label map.

    Where masks overlap the smaller one is on top, so that an object inside another stays visible.

    Args:
        predictions: At most 255, in the order in which the objects are numbered from 1.
        size: ``(H, W)``.
        candidate: Rank of the candidate by score, from 0; an object with fewer gives its best one.

    Returns:
        ``(H, W)`` uint8, 0 background.
    """
    labels = np.zeros(size, dtype=np.uint8)
    masks = [prediction.masks[candidate if candidate < len(prediction.masks) else 0] for prediction in predictions]
    for index in sorted(range(len(masks)), key=lambda n: -int(np.count_nonzero(masks[n]))):
        labels[masks[index]] = index + 1
    return labels


class MergeObjectsd(Transform):
    """Take ``predictions`` and ``frame``, give ``labels``; see :func:`merge_objects`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Merge."""
        result = dict(data)
        result["labels"] = merge_objects(result["predictions"], result["frame"].shape[:2])
        return result


class CleanLabelsd(Transform):
    """Take ``labels`` of one object, give them without what the user does not want.

    ``largest_component`` True keeps the largest connected piece, ``fill_holes`` True fills what the object encloses;
    pixels are connected over edges. Either may be missing.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean."""
        result = dict(data)
        labels = result["labels"][None].copy()  # the transforms may write into what they get
        if result.get("largest_component"):
            labels = KeepLargestConnectedComponent(applied_labels=1, connectivity=1)(labels)
        if result.get("fill_holes"):
            labels = FillHoles(applied_labels=1, connectivity=1)(labels)
        result["labels"] = np.asarray(labels[0], dtype=np.uint8)
        return result


class FrameToVolumed(Transform):
    """Take ``labels``, ``image`` and ``slice``, give ``pred``: the label map in its slice of an empty volume."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the label map into its place."""
        result = dict(data)
        image: MedicalImage = result["image"]
        result["pred"] = SliceLabels((image.frame_count, *image.frame_size), {result["slice"]: result["labels"]})
        return result

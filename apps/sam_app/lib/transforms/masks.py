"""Make a label map of the model's candidate masks, and put masks into their slices of the volume."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from lib.base.clock import current_clock
from lib.imaging.image import MedicalImage
from lib.imaging.labels.slice_labels import SliceLabels
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Prediction
from lib.sam.volume.result import VolumeResult
from lib.transforms.request import REQUEST, SegmentRequest


def candidate_masks(predictions: Sequence[Prediction], candidate: int = 0) -> list[PackedMask]:
    """Return one candidate mask of each object; masks of different objects can overlap.

    Args:
        predictions: In the order in which the objects are numbered from 1.
        candidate: Rank of the candidate by score, from 0; for an object with fewer candidates its best is returned.

    Returns:
        One mask per object.
    """
    return [prediction.packed[candidate if candidate < len(prediction.packed) else 0] for prediction in predictions]


def merge_masks(masks: Sequence[PackedMask], size: tuple[int, int]) -> np.ndarray:
    """Merge masks into one label map, in which each pixel belongs to at most one object.

    Where masks overlap the smaller one wins (of equal ones the later), so that an object inside another stays visible.

    Args:
        masks: At most 255 masks of the given size, in the order in which the objects are numbered from 1.
        size: ``(H, W)``.

    Returns:
        ``(H, W)`` uint8, 0 background.
    """
    labels = np.zeros(size, dtype=np.uint8)
    for index in sorted(range(len(masks)), key=lambda n: -masks[n].area):
        mask = masks[index]
        labels[mask.rows, mask.columns][mask.part] = index + 1
    return labels


class BestMasksd:
    """Add ``masks``, the best one of each object, from ``predictions``; see :func:`candidate_masks`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Choose the masks."""
        return {**data, "masks": candidate_masks(data["predictions"])}


class CleanMasksd:
    """Clean ``masks`` by the options of the ``request``.

    ``largest_component`` keeps only the largest connected piece, ``fill_holes`` fills enclosed background; pixels are
    connected over edges.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean the masks."""
        steps: list[Callable[[np.ndarray], np.ndarray]] = []
        request: SegmentRequest = data[REQUEST]
        if request.options.largest_component:
            steps.append(largest_component)
        if request.options.fill_holes:
            steps.append(ndimage.binary_fill_holes)
        return {**data, "masks": [_cleaned(mask, steps) for mask in data["masks"]] if steps else data["masks"]}


class CutMasksd:
    """Cut the area ``cut`` out of ``masks``, also where cleaning has filled it."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the masks."""
        cut: np.ndarray | None = data["cut"]
        if cut is None:
            return dict(data)
        return {**data, "masks": [PackedMask.of(np.asarray(mask, dtype=bool) & ~cut) for mask in data["masks"]]}


def _cleaned(mask: PackedMask, steps: Sequence[Callable[[np.ndarray], np.ndarray]]) -> PackedMask:
    current_clock().check()
    pixels = np.asarray(mask, dtype=bool)
    for step in steps:
        pixels = step(pixels)
    return PackedMask.of(pixels)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask of any dimension, over edges or faces."""
    pieces, count = ndimage.label(mask)
    if count <= 1:
        return mask
    largest: np.ndarray = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return largest


class MergeMasksd:
    """Add ``labels`` from ``masks`` and ``frame``; see :func:`merge_masks`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Merge the masks."""
        return {**data, "labels": merge_masks(data["masks"], data["frame"].shape[:2])}


class FrameToVolumed:
    """Add ``pred``, ``labels`` in slice ``slice`` of an otherwise empty volume of the size of ``image``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the label map into its slice."""
        return {**data, "pred": _in_volume(data["image"], {data["slice"]: data["labels"]})}


class ResultToVolumed:
    """Add ``pred``, 1 on the object on the slices where it was found, from ``volume_result`` and ``image``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the masks into their slices."""
        found: VolumeResult = data["volume_result"]
        slices = {k: on_slice.mask.view(np.uint8) for k, on_slice in found.found.items()}
        return {**data, "pred": _in_volume(data["image"], slices)}


def _in_volume(image: MedicalImage, slices: Mapping[int, np.ndarray]) -> SliceLabels:
    return SliceLabels((image.frame_count, *image.frame_size), slices)

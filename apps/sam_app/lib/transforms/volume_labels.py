"""From the masks of a volume's slices to the volume of labels that is written."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.sam.volume_result import VolumeResult


class ResultToVolumed(Transform):
    """Take ``volume_result`` and ``image``, give ``pred``: ``(K, rows, columns)`` uint8, 1 on the object."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the masks into their places."""
        result = dict(data)
        image: MedicalImage = result["image"]
        found: VolumeResult = result["volume_result"]
        result["pred"] = found.volume(image.frame_count, image.frame_size)
        return result

"""Make the volume of labels to be written from the masks of its slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.imaging.labels.slice_labels import SliceLabels
from lib.sam.volume.result import VolumeResult


class ResultToVolumed(Transform):
    """Add ``pred``, 1 on the object on the slices where it was found, from ``volume_result`` and ``image``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the masks into their slices."""
        result = dict(data)
        image: MedicalImage = result["image"]
        found: VolumeResult = result["volume_result"]
        slices = {k: on_slice.mask.view(np.uint8) for k, on_slice in found.found.items()}
        result["pred"] = SliceLabels((image.frame_count, *image.frame_size), slices)
        return result

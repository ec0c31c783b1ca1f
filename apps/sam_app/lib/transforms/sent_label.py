"""Check of a label that a client sends with an image to be segmented."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.imaging.labels.label_grid import check_label_file
from lib.transforms.request import REQUEST, SegmentRequest


class SentLabeld(Transform):
    """Check that the label sent with the ``request``, if any, fits ``image``; adds nothing.

    Args:
        read: Reads the label.
    """

    def __init__(self, read: Callable[[Path], MedicalImage]) -> None:
        self._read = read

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the label.

        Raises:
            ImageError: If it cannot be read, or its size or position differs from the image's.
        """
        request: SegmentRequest = data[REQUEST]
        if request.sent_label:
            check_label_file(Path(request.sent_label), data["image"], self._read)
        return dict(data)

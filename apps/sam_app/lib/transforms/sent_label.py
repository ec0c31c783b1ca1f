"""A label that a client sends along with an image to be segmented."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.imaging.labels.label_grid import check_label_file


class SentLabeld(Transform):
    """Take ``image`` and, if there is one, ``sent_label``, a file: see that it belongs to the image.

    Args:
        read: Reads the label.
    """

    def __init__(self, read: Callable[[Path], MedicalImage]) -> None:
        self._read = read

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check it.

        Raises:
            ImageError: If it cannot be read, or its size or place is another.
        """
        if data.get("sent_label"):
            check_label_file(Path(data["sent_label"]), data["image"], self._read)
        return dict(data)

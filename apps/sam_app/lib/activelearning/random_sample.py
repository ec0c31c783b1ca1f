"""Strategy that offers a random image, preferring those not offered for a long time.

It replaces MONAI Label 0.8.5's strategy ``random``, which fails with a 500 if every image was offered within the same
second, because all its weights are then 0.
"""

import random
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class RandomSample(Strategy):
    """Random choice among the images without a final label, weighted by the seconds since each was last offered."""

    def __init__(self) -> None:
        super().__init__("Get a random sample, preferably one that was not offered lately")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: ``strategy``, the name under which the datastore records when an image was offered; ``label_tag``
                and ``labels``, which images count as labelled.
            datastore: The images.

        Returns:
            ``id`` and ``weight`` of the image; None if every image has a final label.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        notes = [datastore.get_image_info(image).get("strategy", {}).get(request["strategy"], {}) for image in images]
        weights = [max(0, int(time.time()) - note.get("ts", 0)) + 1 for note in notes]
        [(image, weight)] = random.choices(list(zip(images, weights, strict=True)), weights=weights)  # noqa: S311 - a draw, no secret
        return {"id": image, "weight": weight}

"""Strategy that offers the image with the most uncertain labels, by the IoU that the model predicts for its masks."""

import math
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class Uncertainty(Strategy):
    """Choice of the image with the lowest predicted IoU, among the images without a final label.

    An image's score is that of its worst object, or of the worst slice of an object in a volume. It comes from the
    labels that inference saved (``save_label`` of ``/infer``, or ``/batch/infer``): the datastore stores their
    ``params``. Images without a score come first, as nothing is known about them; if no image has a score, this is the
    strategy ``first``. Images with equal scores are ordered by id.
    """

    def __init__(self) -> None:
        super().__init__("Get the sample that the model is least certain of, by predicted IoU of saved labels")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: With ``label_tag``, only scores of labels with this tag count.
            datastore: The images and their labels.

        Returns:
            ``id`` and ``score`` (None without one) of the image; None if every image has a final label.
        """
        tag = request.get("label_tag")
        scores = {image: image_score(datastore, image, tag) for image in datastore.get_unlabeled_images(tag)}
        if not scores:
            return None
        image = min(scores, key=lambda one: (-math.inf if scores[one] is None else scores[one], one))
        return {"id": image, "score": scores[image]}


def image_score(datastore: Datastore, image: str, label_tag: str | None = None) -> float | None:
    """Return the lowest predicted IoU of the objects in an image's newest label with scores.

    Args:
        datastore: The datastore with the labels.
        image: The image's id.
        label_tag: The tag of the labels that count; None for all.

    Returns:
        The score; None if no label has scores, or the newest label with scores contains no object.
    """
    labels = datastore.get_labels_by_image_id(image).items()
    infos = [datastore.get_label_info(label, tag) for tag, label in labels if label_tag in (None, "", tag)]
    rated = [(float(info.get("ts") or 0), _scores(info.get("params"))) for info in infos]
    with_scores = [(at, scores) for at, scores in rated if scores is not None]
    _, newest = max(with_scores, key=lambda one: one[0], default=(0.0, []))
    return min(newest, default=None)


def _scores(params: Any) -> list[float] | None:
    """Return the scores in a task's params: ``scores`` of objects on a slice, or of ``found``, an object's slices.

    None if there are none, or they are not valid: the info of a label can come from a client.
    """
    if not isinstance(params, Mapping):
        return None
    scores = params.get("scores")
    if scores is None and isinstance(params.get("found"), list):
        scores = [mask.get("score") for mask in params["found"] if isinstance(mask, Mapping)]
    is_valid = isinstance(scores, list) and all(isinstance(score, (int, float)) for score in scores)
    return [float(score) for score in scores or ()] if is_valid else None

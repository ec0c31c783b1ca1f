"""The REST vocabulary, ``SAMInput``: rectangles and points in pixels of one image, to prompts for each object."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.sam.prompts import PromptError, Prompts
from lib.sam.refinement import EarlierObject
from lib.transforms.limits import DEFAULT_MAX_PROMPTS, check_prompt_count

MAX_OBJECTS = 255
"""Objects are numbered in 8 bits."""


@dataclass(frozen=True, eq=False)
class EarlierAnswer:
    """What an earlier request on the same frame was answered, by the same model.

    Args:
        sam_input: Its prompts, as :func:`sam_input_objects` takes them.
        scores: ``(C,)`` float32 for each object, the candidate to go on from first.
        low_res_logits: ``(C, 256, 256)`` float32 for each object, likewise.
    """

    sam_input: Mapping[str, Any]
    scores: Sequence[np.ndarray]
    low_res_logits: Sequence[np.ndarray]


def sam_input_objects(sam_input: Mapping[str, Any]) -> list[Prompts]:
    """The objects that a ``SAMInput`` asks for, in the order in which they are numbered.

    One rectangle and the points are one object. Of several rectangles each is an object, with the positive points
    that lie inside it (inside several: the smallest); positive points outside all of them are one more object.
    Negative points apply to every object. No prompt at all gives no object, which asks for automatic segmentation.

    Args:
        sam_input: ``rectangles``, each with ``startX``, ``startY``, ``width``, ``height`` (negative when dragged
            up or left); ``positive_points`` and ``negative_points``, each with ``x``, ``y``. Missing is empty.

    Raises:
        PromptError: For negative points alone, a rectangle without area, or more than 255 objects.
    """
    boxes = [_box(rectangle) for rectangle in sam_input.get("rectangles") or ()]
    positive = [(point["x"], point["y"]) for point in sam_input.get("positive_points") or ()]
    negative = [(point["x"], point["y"]) for point in sam_input.get("negative_points") or ()]
    if len(boxes) >= MAX_OBJECTS:
        raise PromptError(f"there are {len(boxes)} rectangles; at most {MAX_OBJECTS - 1} are possible")
    if len(boxes) <= 1:
        if not boxes and not positive and not negative:
            return []
        return [Prompts.from_clicks(positive, negative, box=boxes[0] if boxes else None)]

    inside: list[list[tuple[float, float]]] = [[] for _ in boxes]
    outside: list[tuple[float, float]] = []
    for point in positive:
        owner = _smallest_box_around(point, boxes)
        (outside if owner is None else inside[owner]).append(point)
    objects = [Prompts.from_clicks(points, negative, box=box) for points, box in zip(inside, boxes, strict=True)]
    if outside:
        objects.append(Prompts.from_clicks(outside, negative))
    return objects


def prompt_counts(sam_input: Mapping[str, Any]) -> dict[str, int]:
    """How many ``rectangles``, ``positive_points`` and ``negative_points`` a ``SAMInput`` has."""
    return {kind: len(sam_input.get(kind) or ()) for kind in ("rectangles", "positive_points", "negative_points")}


def _box(rectangle: Mapping[str, float]) -> list[float]:
    """XYXY of a rectangle that may have been dragged up or left."""
    x0, y0 = rectangle["startX"], rectangle["startY"]
    x1, y1 = x0 + rectangle["width"], y0 + rectangle["height"]
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _smallest_box_around(point: tuple[float, float], boxes: Sequence[Sequence[float]]) -> int | None:
    x, y = point
    around = [n for n, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= x <= x1 and y0 <= y <= y1]
    if not around:
        return None
    return min(around, key=lambda n: (boxes[n][2] - boxes[n][0]) * (boxes[n][3] - boxes[n][1]))


class SamInputPromptsd(Transform):
    """Take ``image`` and ``sam_input``, give ``slice``, ``slice_source``, ``objects`` and ``earlier``.

    The frame is ``sam_input["frame"]``, else the middle one. ``earlier``, an :class:`EarlierAnswer` or missing, becomes
    a list of :class:`~lib.sam.refinement.EarlierObject`.

    Args:
        max_prompts: Bound on the points and rectangles of one request.
    """

    def __init__(self, max_prompts: int = DEFAULT_MAX_PROMPTS) -> None:
        self.max_prompts = max_prompts

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map them.

        Raises:
            PromptError: As :func:`sam_input_objects`, for too many prompts, or for one outside the image.
        """
        result = dict(data)
        image: MedicalImage = result["image"]
        sam_input = result["sam_input"]
        frame = sam_input.get("frame")
        earlier: EarlierAnswer | None = result.get("earlier")
        check_prompt_count(sum(prompt_counts(sam_input).values()), self.max_prompts)
        result.update(
            slice=image.frame_count // 2 if frame is None else frame,
            slice_source="middle" if frame is None else "request",
            objects=_on_image(sam_input, image),
            earlier=[] if earlier is None else _earlier_objects(earlier, image),
        )
        return result


def _on_image(sam_input: Mapping[str, Any], image: MedicalImage) -> list[Prompts]:
    return [prompts.within(*image.ijk_shape[:2]) for prompts in sam_input_objects(sam_input)]


def _earlier_objects(earlier: EarlierAnswer, image: MedicalImage) -> list[EarlierObject]:
    objects = _on_image(earlier.sam_input, image)
    if not objects:  # found automatically: no prompts to go on from
        return []
    return [
        EarlierObject(prompts, scores, logits)
        for prompts, scores, logits in zip(objects, earlier.scores, earlier.low_res_logits, strict=True)
    ]

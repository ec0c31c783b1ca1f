"""Convert a REST client's rectangles and points, in pixels of one image, to prompts for each object."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lib.imaging.image import MedicalImage
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.sam.prompts import PromptError, Prompts
from lib.sam.refinement import EarlierObject
from lib.transforms.request import REQUEST, EarlierResult, SegmentRequest
from lib.transforms.sam_input import MAX_RECTANGLES, RectInput, SAMPrompts


def sam_input_objects(sam_input: SAMPrompts) -> list[Prompts]:
    """Return the prompts of each object that a REST client asks for, in the order in which objects are numbered.

    At most one rectangle and all points are one object. Each of several rectangles is an object, with the positive
    points inside it (inside several: the smallest); positive points outside all of them are one more object. Negative
    points apply to every object. Without any prompt there is no object: a request for automatic segmentation.

    Raises:
        PromptError: For negative points alone, a rectangle without area, or more than 255 objects.
    """
    boxes = [_box(rectangle) for rectangle in sam_input.rectangles or ()]
    positive = [(point.x, point.y) for point in sam_input.positive_points or ()]
    negative = [(point.x, point.y) for point in sam_input.negative_points or ()]
    if len(boxes) > MAX_RECTANGLES:
        raise PromptError(f"there are {len(boxes)} rectangles; at most {MAX_RECTANGLES} are possible")
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


def _box(rectangle: RectInput) -> list[float]:
    """Return the XYXY box of a rectangle, which may have been dragged up or left."""
    x0, y0 = rectangle.startX, rectangle.startY
    x1, y1 = x0 + rectangle.width, y0 + rectangle.height
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _smallest_box_around(point: tuple[float, float], boxes: Sequence[Sequence[float]]) -> int | None:
    x, y = point
    around = [n for n, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= x <= x1 and y0 <= y <= y1]
    if not around:
        return None
    return min(around, key=lambda n: (boxes[n][2] - boxes[n][0]) * (boxes[n][3] - boxes[n][1]))


class SamInputPromptsd:
    """Add ``slice``, ``slice_source``, ``objects`` and ``earlier`` from ``image`` and a REST ``request``.

    Without a frame it is the middle one. ``earlier`` is a list of :class:`~lib.sam.refinement.EarlierObject`.

    Args:
        limits: A request with more points and rectangles is refused.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts.

        Raises:
            PromptError: As :func:`sam_input_objects`, for too many prompts, or for one outside the image.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        sam_input = request.prompts
        if not isinstance(sam_input, SAMPrompts):
            raise TypeError(f"a request of source {request.source} has no REST client's prompts")
        self.limits.check_prompts(sum(sam_input.counts().values()))
        frame = sam_input.frame
        return {
            **data,
            "slice": image.frame_count // 2 if frame is None else frame,
            "slice_source": "middle" if frame is None else "request",
            "objects": _on_image(sam_input, image),
            "earlier": [] if request.earlier is None else _earlier_objects(request.earlier, image),
        }


def _on_image(sam_input: SAMPrompts, image: MedicalImage) -> list[Prompts]:
    return [prompts.within(*image.ijk_shape[:2]) for prompts in sam_input_objects(sam_input)]


def _earlier_objects(earlier: EarlierResult, image: MedicalImage) -> list[EarlierObject]:
    objects = _on_image(earlier.prompts, image)
    if not objects:  # found automatically: there are no prompts to refine
        return []
    return [
        EarlierObject(prompts, scores, logits)
        for prompts, scores, logits in zip(objects, earlier.scores, earlier.low_res_logits, strict=True)
    ]

"""Convert a REST client's rectangles, points and drawings, in pixels of one image, to prompts for each object."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage
from lib.sam.models.registry import ALL_PROMPTS, PromptKind
from lib.sam.prompts import PromptError, Prompts
from lib.sam.refinement import EarlierObject
from lib.sam.strokes import lasso_areas, lasso_prompts, scribble_points, with_points
from lib.sam.volume.corrections import start_prompts
from lib.transforms.present_labels import start_labels, start_on_slice
from lib.transforms.prompts_transform import PromptsTransform
from lib.transforms.request import REQUEST, EarlierResult, SegmentRequest
from lib.transforms.sam_input import MAX_RECTANGLES, PointInput, RectInput, SAMPrompts


def sam_input_objects(
    sam_input: SAMPrompts,
    size: tuple[int, int],
    kinds: Sequence[PromptKind] = ALL_PROMPTS,
    start: np.ndarray | None = None,
) -> list[Prompts]:
    """Return the prompts of each object that a REST client asks for, in the order in which objects are numbered.

    At most one rectangle or positive lasso and all points are one object. Each of several is an object, rectangles
    first, with the positive points inside it (inside several: the smallest); positive points outside all of them are
    one more object. Negative points apply to every object. The points of a scribble are together: they are where its
    middle is. Without any prompt there is no object: a request for automatic segmentation. A mask to start from is the
    one object, and points correct it.

    Args:
        sam_input: The request.
        size: ``(height, width)`` of the frame.
        kinds: Of prompts that the model was trained with.
        start: The mask to start from, ``(height, width)`` bool, not empty.

    Raises:
        PromptError: For negative prompts alone, a rectangle without area, a drawing outside the image, more than 255
            objects, or rectangles and lassos besides a mask to start from.
    """
    count = len(sam_input.rectangles or ()) + len(sam_input.positive_lassos)
    if count > MAX_RECTANGLES:
        raise PromptError(f"there are {count} rectangles and lassos; at most {MAX_RECTANGLES} are possible")
    if start is not None and count:
        raise PromptError(
            "the mask to start from is the one object: correct it by points, scribbles and negative lassos, and leave "
            "rectangles and positive lassos out"
        )
    wholes = [Prompts(box=_box(rectangle)) for rectangle in sam_input.rectangles or ()]
    wholes += [
        lasso_prompts(area, kinds) for area in lasso_areas([lasso.xy for lasso in sam_input.positive_lassos], size)
    ]
    positive = [_xy(point) for point in sam_input.positive_points or ()]
    negative = [_xy(point) for point in sam_input.negative_points or ()]
    for scribble in sam_input.scribbles or ():
        (positive if scribble.positive else negative).append(scribble_points(scribble.xy, scribble.width, size))
    beside = np.concatenate([np.zeros((0, 2)), *negative])
    if start is not None:
        return [start_prompts(start, np.concatenate([np.zeros((0, 2)), *positive]), beside, kinds)]
    if len(wholes) <= 1:
        if not any((wholes, positive, negative, sam_input.lassos)):
            return []
        return [with_points(wholes[0] if wholes else None, np.concatenate([np.zeros((0, 2)), *positive]), beside)]

    inside: list[list[np.ndarray]] = [[] for _ in wholes]
    outside: list[np.ndarray] = []
    for points in positive:
        owner = _smallest_around(points[0], wholes)
        (outside if owner is None else inside[owner]).append(points)
    objects = [
        with_points(whole, np.concatenate([np.zeros((0, 2)), *points]), beside)
        for whole, points in zip(wholes, inside, strict=True)
    ]
    if outside:
        objects.append(with_points(None, np.concatenate(outside), beside))
    return objects


def areas_beside(sam_input: SAMPrompts, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the areas ``(height, width)`` bool within the negative lassos, which are cut out of every object.

    Raises:
        PromptError: If one is outside the image.
    """
    return lasso_areas([lasso.xy for lasso in sam_input.negative_lassos], size)


def _xy(point: PointInput) -> np.ndarray:
    return np.array([[point.x, point.y]])


def _box(rectangle: RectInput) -> np.ndarray:
    """Return the XYXY box of a rectangle, which may have been dragged up or left."""
    x0, y0 = rectangle.startX, rectangle.startY
    x1, y1 = x0 + rectangle.width, y0 + rectangle.height
    return np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])


def _smallest_around(point: np.ndarray, wholes: Sequence[Prompts]) -> int | None:
    """Return which of these boxes and areas is the smallest around a point (x, y); None if none is."""
    sizes = [(size, n) for n, whole in enumerate(wholes) if (size := _size_around(point, whole)) is not None]
    return min(sizes)[1] if sizes else None


def _size_around(point: np.ndarray, whole: Prompts) -> float | None:
    """Return the pixels of a box or an area; None if the point is not within it."""
    if whole.area is not None:
        rows, columns = whole.area.shape
        column, row = np.round(point)
        on_image = 0 <= row < rows and 0 <= column < columns
        return float(whole.area.sum()) if on_image and whole.area[int(row), int(column)] else None
    assert whole.box is not None
    x0, y0, x1, y1 = whole.box
    return float((x1 - x0) * (y1 - y0)) if x0 <= point[0] <= x1 and y0 <= point[1] <= y1 else None


class SamInputPromptsd(PromptsTransform):
    """Add ``slice``, ``slice_source``, ``objects``, ``start``, ``beside``, ``earlier`` for a REST ``request``.

    Without a frame it is the middle one.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts.

        Raises:
            PromptError: As :func:`sam_input_objects`, for too many prompts, or for one outside the image.
            ImageError: If the mask to start from does not lie on the image.
        """
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        sam_input = request.prompts
        if not isinstance(sam_input, SAMPrompts):
            raise TypeError(f"a request of source {request.source} has no REST client's prompts")
        self.limits.check_prompts(sum(sam_input.counts().values()))
        frame = sam_input.frame
        k = image.frame_count // 2 if frame is None else frame
        labels = start_labels(data, self._read)
        start = None if labels is None else start_on_slice(labels, image, k)
        return {
            **data,
            "slice": k,
            "slice_source": "middle" if frame is None else "request",
            "objects": self._on_image(sam_input, image, start),
            "start": start if sam_input.has_prompts else None,
            "beside": areas_beside(sam_input, image.frame_size),
            "earlier": []
            if request.earlier is None or start is not None
            else self._earlier_objects(request.earlier, image),
        }

    def _on_image(self, sam_input: SAMPrompts, image: MedicalImage, start: np.ndarray | None = None) -> list[Prompts]:
        objects = sam_input_objects(sam_input, image.frame_size, self._kinds, start)
        return [prompts.within(*image.ijk_shape[:2]) for prompts in objects]

    def _earlier_objects(self, earlier: EarlierResult, image: MedicalImage) -> list[EarlierObject]:
        objects = self._on_image(earlier.prompts, image)
        if not objects:  # found automatically: there are no prompts to refine
            return []
        beside = areas_beside(earlier.prompts, image.frame_size)
        return [
            EarlierObject.of(prompts, scores, logits, beside)
            for prompts, scores, logits in zip(objects, earlier.scores, earlier.low_res_logits, strict=True)
        ]

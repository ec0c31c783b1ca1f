"""Convert OHIF's and 3D Slicer's prompts, voxel indices of the volume, to prompts on one slice or through a volume.

The clients send (MONAI Label 0.8): ``foreground`` and ``background``, lists of ``[i, j, k]``, either may be absent;
``slice``, from Slicer: k if there are points, but a millimetre offset if there is only a region; ``roi``,
``[i0, i1, j0, j1, k0, k1]``, whose pairs may be in reverse order. Other clients may also send ``scribbles`` and
``lassos``, see :class:`~lib.transforms.request.Drawing`. The ``as_`` functions parse these values; the others
check them against the image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage
from lib.sam.logits_grid import LogitsGrid
from lib.sam.models.registry import ALL_PROMPTS, PromptKind
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume.propagation import VolumePrompts
from lib.sam.volume.result import SliceMask
from lib.transforms.present_labels import one_object, start_labels, start_on_slice
from lib.transforms.prompts_transform import PromptsTransform
from lib.transforms.request import REQUEST, Drawing, SegmentRequest, ViewerPrompts
from lib.transforms.sam_input import DEFAULT_LINE_WIDTH, MAX_LINE_POINTS, MAX_LINE_WIDTH
from lib.transforms.viewer_options import as_flag
from lib.transforms.voxel_marks import NO_REGION, VoxelMarks, no_points

_DRAWING_DEFAULTS = {"width": DEFAULT_LINE_WIDTH, "positive": True}


def as_points(value: Any, name: str) -> tuple[tuple[float, ...], ...]:
    """Parse points, all ``(i, j, k)`` or all ``(i, j)``; an empty tuple for None.

    Raises:
        PromptError: If it is not a list of points.
    """
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return ()
    array = _numbers(value)
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise PromptError(no_points(name))
    if not np.isfinite(array).all():
        raise PromptError(f"{name} must hold finite numbers, not NaN or infinity")
    return tuple(map(tuple, array.tolist()))


def as_region(value: Any, name: str) -> tuple[float, ...] | None:
    """Parse a region, ``(i0, i1, j0, j1, k0, k1)`` or ``(i0, i1, j0, j1)``; None for None or an empty list.

    Raises:
        PromptError: If it is not a region.
    """
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return None
    array = _numbers(value)
    if array.shape not in ((4,), (6,)) or not np.isfinite(array).all():
        raise PromptError(NO_REGION)
    return tuple(array.tolist())


def _numbers(value: Any) -> np.ndarray:
    """Convert a list of numbers, which may be text, to an array; an empty one for anything else."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def as_slice(value: Any, name: str) -> float | None:
    """Return a number, not always a slice's: see :class:`~lib.transforms.request.ViewerPrompts`.

    Raises:
        PromptError: If it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, NoneType)) or value != value:
        raise PromptError(f"{name} must be a whole number")
    return value


def as_scribbles(value: Any, name: str) -> tuple[Drawing, ...]:
    """Parse scribbles; an empty tuple for None.

    Raises:
        PromptError: If it is not a list of them.
    """
    return _as_drawings(value, name, {"points", "width", "positive"}, least=1)


def as_lassos(value: Any, name: str) -> tuple[Drawing, ...]:
    """Parse lassos; an empty tuple for None.

    Raises:
        PromptError: If it is not a list of them.
    """
    return _as_drawings(value, name, {"points", "positive"}, least=3)


def _as_drawings(value: Any, name: str, keys: set[str], least: int) -> tuple[Drawing, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(one, Mapping) and one.keys() <= keys for one in value
    ):
        known = ", ".join(sorted(keys))
        raise PromptError(
            f'{name} must be a list of objects like {{"points": [[i, j, k], ...]}}, whose keys are {known}'
        )
    return tuple(_as_drawing(one, name, least) for one in value)


def _as_drawing(value: Mapping[str, Any], name: str, least: int) -> Drawing:
    points = as_points(value.get("points"), name)
    if not least <= len(points) <= MAX_LINE_POINTS:
        raise PromptError(f"each of the {name} has {least} to {MAX_LINE_POINTS} points, not {len(points)}")
    width, positive = (default if value.get(key) is None else value[key] for key, default in _DRAWING_DEFAULTS.items())
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= MAX_LINE_WIDTH:
        raise PromptError(f"the width of {name} is a number of pixels above 0, at most {MAX_LINE_WIDTH:g}")
    return Drawing(points, as_flag(positive, f"positive of {name}"), float(width))


def viewer_prompts(
    image: MedicalImage,
    sent: ViewerPrompts,
    box_from_points: bool = False,
    kinds: Sequence[PromptKind] = ALL_PROMPTS,
) -> tuple[int, Prompts]:
    """Return the slice that the prompts refer to, and the prompts on it.

    With points or drawings it is ``slice`` or, if absent, the slice of the last foreground (else background) point,
    else of a drawing; without them it is the middle of the region. Prompts on other slices are ignored, as is a region
    that does not reach the slice.

    Args:
        image: The image, whose ``ijk`` indices the clients use.
        sent: The viewer's prompts.
        box_from_points: Use the first two foreground points of the slice as opposite corners of a box, for viewers
            that have points only; a single one stays a point until there is a second.
        kinds: Of prompts that the model was trained with.

    Returns:
        k and the prompts, in XY pixels of that slice (x is i, y is j).

    Raises:
        PromptError: If the points or the region are not inside this image, or nothing on the slice marks an object.
    """
    marks = VoxelMarks.on(image, sent)
    k = _chosen_slice(marks, sent, image)
    return k, _prompts_there(marks, k, box_from_points, kinds)


def _prompts_there(
    marks: VoxelMarks, k: int, box_from_points: bool, kinds: Sequence[PromptKind], start: np.ndarray | None = None
) -> Prompts:
    """Return the prompts on slice k, with the region if it reaches the slice."""
    region, box = marks.region, None
    if region is not None and region[4] <= k <= region[5]:
        box = [region[0], region[2], region[1], region[3]]
    prompts = marks.prompts(k, box, box_from_points, kinds, start)
    if prompts is None:
        raise PromptError(f"nothing marks the object on slice {k}: give a foreground point or a region there")
    return prompts


def _chosen_slice(marks: VoxelMarks, sent: ViewerPrompts, image: MedicalImage, labels: np.ndarray | None = None) -> int:
    """Return the slice that the prompts refer to; without any, that with most of the label to start from."""
    if marks.slices:
        return _slice_index(sent.slice, default=marks.slices[-1], image=image)
    if marks.region is not None:
        return (marks.region[4] + marks.region[5]) // 2
    if labels is not None:
        return _slice_index(sent.slice, default=int(np.count_nonzero(labels, axis=(1, 2)).argmax()), image=image)
    raise PromptError("no prompt: give foreground points [i, j, k] or a roi [i0, i1, j0, j1, k0, k1]")


def _slice_index(value: float | None, default: int, image: MedicalImage) -> int:
    if value is None:
        return default
    if not 0 <= value < image.frame_count or value != int(value):
        raise PromptError(f"slice must be a whole number from 0 to {image.frame_count - 1}, not {value}")
    return int(value)


def volume_prompts(
    image: MedicalImage,
    sent: ViewerPrompts,
    box_from_points: bool = False,
    kinds: Sequence[PromptKind] = ALL_PROMPTS,
    start: Mapping[int, SliceMask] | None = None,
    slices: tuple[int, int] | None = None,
) -> VolumePrompts:
    """Return the prompts on every slice that has some, and the slices that the object can be on.

    A region is a box on its middle slice. If it spans several slices, the object is searched only there and up to the
    slices with points or drawings.

    Args:
        image: The image, whose ``ijk`` indices the clients use.
        sent: The viewer's prompts; ``slice`` is not needed.
        box_from_points: Use the first two foreground points of each slice as opposite corners of a box.
        kinds: Of prompts that the model was trained with.
        start: The mask to start from, by slice.
        slices: The first and the last slice on which to look for the object, and those of ``start``; None: all.

    Returns:
        The prompts in XY pixels of the slices (x is i, y is j).

    Raises:
        PromptError: If the points, the region or the slices are not inside this image, prompts are not on these
            slices, or nothing marks the object on any slice.
    """
    marks, start = VoxelMarks.on(image, sent), start or {}
    region = marks.region
    drawn = [k for k, _, _ in [*marks.strokes, *marks.areas]]
    prompted = list(dict.fromkeys([*(point[2] for point in [*marks.foreground, *marks.background]), *drawn]))

    bounds = range(image.frame_count)
    middle = None
    if region is not None:
        first, last = region[4:]
        middle = (first + last) // 2
        if first < last:
            bounds = range(min([first, *prompted, *start]), max([last, *prompted, *start]) + 1)
        prompted = [middle, *(k for k in prompted if k != middle)]
    if slices is not None:
        if slices[1] >= image.frame_count:
            raise PromptError(f"slices are from 0 to {image.frame_count - 1}, not {list(slices)}")
        first, last = max(slices[0], bounds.start), min(slices[1], bounds.stop - 1)
        bounds = range(min([first, *start]), max([last, *start]) + 1)

    marked: dict[int, Prompts] = {}
    corrections: dict[int, np.ndarray] = {}
    for k in prompted:
        box = [region[0], region[2], region[1], region[3]] if region is not None and k == middle else None
        prompts = marks.prompts(k, box, box_from_points, kinds)
        if prompts is not None:
            marked[k] = prompts.within(*image.ijk_shape[:2])
        elif len(points := marks.points_beside(k)):
            corrections[k] = points
    if not marked and not start:
        raise PromptError(
            "nothing marks the object: give a foreground point [i, j, k] or a roi [i0, i1, j0, j1, k0, k1]"
        )
    if not prompted:
        raise PromptError("nothing corrects the label to start from: give points, scribbles, lassos or a roi")
    return VolumePrompts(marked, corrections, bounds, start)


class _FromViewer(PromptsTransform):
    """Base class of the transforms that map a viewer's prompts."""

    def sent(self, request: SegmentRequest) -> ViewerPrompts:
        """Return the prompts of a viewer's request.

        Raises:
            PromptError: For more points and drawings than the limits allow.
        """
        prompts = request.prompts
        if not isinstance(prompts, ViewerPrompts):
            raise TypeError(f"a request of source {request.source} has no viewer's prompts")
        self.limits.check_prompts(prompts.count)
        return prompts


class ViewerPromptsd(_FromViewer):
    """Add ``slice``, ``slice_source``, ``objects``, ``start``, ``beside`` and an empty ``earlier``.

    They are made from ``image`` and a viewer's ``request``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts; raises as :func:`viewer_prompts`, for too many, or as :func:`start_labels`."""
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        sent, labels = self.sent(request), start_labels(data, self._read)
        marks = VoxelMarks.on(image, sent)
        k = _chosen_slice(marks, sent, image, labels)
        start = None if labels is None else start_on_slice(labels, image, k)
        prompts = _prompts_there(marks, k, request.options.box_from_points, self._kinds, start)
        return {
            **data,
            "slice": k,
            "slice_source": "request",
            "objects": [prompts.within(*image.ijk_shape[:2])],
            "start": start if k in marks.slices else None,
            "beside": marks.beside(k),
            "earlier": [],
        }


class VolumePromptsd(_FromViewer):
    """Add ``volume_prompts`` and ``beside``, areas by slice, from ``image`` and a viewer's ``request``.

    Args:
        grid: Returns the grid of the model's logits on a slice of ``(rows, columns)``.
        others: As of the base class.
    """

    def __init__(self, *others: Any, grid: Callable[[tuple[int, int]], LogitsGrid] | None = None) -> None:
        super().__init__(*others)
        self._grid = grid

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts; raises as :func:`volume_prompts`, for too many, or as :func:`start_labels`."""
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        sent, start = self.sent(request), self._start(data)
        options = request.options
        prompts = volume_prompts(image, sent, options.box_from_points, self._kinds, start, options.slices)
        marks = VoxelMarks.on(image, sent)
        beside = {k: areas for k in marks.slices if (areas := marks.beside(k))}
        return {**data, "volume_prompts": prompts, "beside": beside}

    def _start(self, data: Mapping[Hashable, Any]) -> dict[int, SliceMask]:
        """Return the mask to start from, by slice."""
        labels = start_labels(data, self._read)
        if labels is None or self._grid is None:
            return {}
        mask, grid = one_object(labels, "in the volume"), self._grid(data["image"].frame_size)
        slices = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
        return {k: SliceMask.of(mask[k], grid) for k in slices}

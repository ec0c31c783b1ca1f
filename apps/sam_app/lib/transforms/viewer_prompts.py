"""Convert OHIF's and 3D Slicer's prompts, voxel indices of the volume, to prompts on one slice or through a volume.

The clients send (MONAI Label 0.8): ``foreground`` and ``background``, lists of ``[i, j, k]``, either may be absent;
``slice``, from Slicer: k if there are points, but a millimetre offset if there is only a region; ``roi``,
``[i0, i1, j0, j1, k0, k1]``, whose pairs may be in reverse order. The ``as_`` functions parse these values; the others
check them against the image.
"""

from collections.abc import Hashable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume.propagation import VolumePrompts
from lib.transforms.request import REQUEST, SegmentRequest, ViewerPrompts

VoxelPoints = list[tuple[float, float, int]]
"""Points as ``(i, j, k)``, inside the image."""

_NO_REGION = "roi must be six finite numbers: [i0, i1, j0, j1, k0, k1]"


def as_points(value: Any, name: str) -> tuple[tuple[float, ...], ...]:
    """Parse points, all ``(i, j, k)`` or all ``(i, j)``; an empty tuple for None.

    Raises:
        PromptError: If it is not a list of points.
    """
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return ()
    array = _numbers(value)
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise PromptError(_no_points(name))
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
        raise PromptError(_NO_REGION)
    return tuple(array.tolist())


def _numbers(value: Any) -> np.ndarray:
    """Convert a list of numbers, which may be text, to an array; an empty one for anything else."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def _no_points(name: str) -> str:
    return f"{name} must be a list of points [i, j, k]"


def as_slice(value: Any, name: str) -> float | None:
    """Return a number, not always a slice's: see :class:`~lib.transforms.request.ViewerPrompts`.

    Raises:
        PromptError: If it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, NoneType)) or value != value:
        raise PromptError(f"{name} must be a whole number")
    return value


def viewer_prompts(image: MedicalImage, sent: ViewerPrompts, box_from_points: bool = False) -> tuple[int, Prompts]:
    """Return the slice that the prompts refer to, and the prompts on it.

    With points it is ``slice`` or, if absent, the slice of the last foreground (else background) point; without points
    it is the middle of the region. Points on other slices are ignored, as is a region that does not reach the slice.

    Args:
        image: The image, whose ``ijk`` indices the clients use.
        sent: The viewer's prompts.
        box_from_points: Use the first two foreground points of the slice as opposite corners of a box, for viewers
            that have points only; a single one stays a point until there is a second.

    Returns:
        k and the prompts, in XY pixels of that slice (x is i, y is j).

    Raises:
        PromptError: If the points or the region are not inside this image, or nothing on the slice marks an object.
    """
    foreground = voxel_points(sent.foreground, "foreground", image)
    background = voxel_points(sent.background, "background", image)
    region = voxel_region(sent.region, image)
    points = [*background, *foreground]
    if points:
        k = _slice_index(sent.slice, default=points[-1][2], image=image)
    elif region is not None:
        k = (region[4] + region[5]) // 2
    else:
        raise PromptError("no prompt: give foreground points [i, j, k] or a roi [i0, i1, j0, j1, k0, k1]")

    box = None
    if region is not None and region[4] <= k <= region[5]:
        box = [region[0], region[2], region[1], region[3]]
    prompts = prompts_on_slice(k, foreground, background, box, box_from_points)
    if prompts is None:
        raise PromptError(f"nothing marks the object on slice {k}: give a foreground point or a region there")
    return k, prompts


def prompts_on_slice(
    k: int, foreground: VoxelPoints, background: VoxelPoints, box: list[float] | None, box_from_points: bool
) -> Prompts | None:
    """Return the prompts on slice k; None if nothing marks the object there.

    Args:
        k: The slice.
        foreground: Points on the object, on any slices.
        background: Points beside it, likewise.
        box: The box on this slice, XYXY, if there is one.
        box_from_points: As of :func:`viewer_prompts`.
    """
    on_object, outside = ([point[:2] for point in group if point[2] == k] for group in (foreground, background))
    if box is None and box_from_points and len(on_object) >= 2:
        box, on_object = box_between(*on_object[:2]), on_object[2:]
    return Prompts.from_clicks(on_object, outside, box=box) if box is not None or on_object else None


def box_between(a: tuple[float, ...], b: tuple[float, ...]) -> list[float]:
    """Return the box, XYXY, with these two opposite corners.

    Raises:
        PromptError: If it has no area.
    """
    (left, right), (top, bottom) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    if left == right or top == bottom:
        raise PromptError(f"the box between the points {list(a)} and {list(b)} has no area: click opposite corners")
    return [left, top, right, bottom]


def voxel_points(points: Sequence[Sequence[float]], name: str, image: MedicalImage) -> VoxelPoints:
    """Return points as ``(i, j, k)``, checked against the image; for a single frame they may be ``(i, j)``."""
    if not points:
        return []
    array = np.asarray(points, dtype=np.float64)
    if array.shape[1] == 2 and image.frame_count == 1:
        array = np.column_stack([array, np.zeros(len(array))])
    if array.shape[1] != 3:
        raise PromptError(_no_points(name))
    for point in array:
        index = np.round(point)
        if (index < 0).any() or (index >= image.ijk_shape).any():
            raise PromptError(
                f"the {name} point {[float(v) for v in point]} is outside the image, "
                f"whose shape in i, j, k is {list(image.ijk_shape)}"
            )
    return [(float(i), float(j), round(float(k))) for i, j, k in array]


def voxel_region(
    region: Sequence[float] | None, image: MedicalImage
) -> tuple[float, float, float, float, int, int] | None:
    """Return a region as ``(i0, i1, j0, j1, k0, k1)``, each pair in order and k within the volume; None for None."""
    if region is None:
        return None
    array = np.asarray(region, dtype=np.float64)
    if array.shape == (4,) and image.frame_count == 1:
        array = np.append(array, [0, 0])
    if array.shape != (6,):
        raise PromptError(_NO_REGION)
    (i0, i1), (j0, j1), (k0, k1) = np.sort(array.reshape(3, 2), axis=1)
    last = image.frame_count - 1
    if k1 < 0 or k0 > last:
        raise PromptError(f"the roi is outside the image: its k is {k0:g} to {k1:g}, the image's 0 to {last}")
    return float(i0), float(i1), float(j0), float(j1), round(max(k0, 0)), round(min(k1, last))


def _slice_index(value: float | None, default: int, image: MedicalImage) -> int:
    if value is None:
        return default
    if not 0 <= value < image.frame_count or value != int(value):
        raise PromptError(f"slice must be a whole number from 0 to {image.frame_count - 1}, not {value}")
    return int(value)


def volume_prompts(image: MedicalImage, sent: ViewerPrompts, box_from_points: bool = False) -> VolumePrompts:
    """Return the prompts on every slice that has some, and the slices that the object can be on.

    A region is a box on its middle slice. If it spans several slices, the object is searched only there and up to the
    slices with points.

    Args:
        image: The image, whose ``ijk`` indices the clients use.
        sent: The viewer's prompts; ``slice`` is not needed.
        box_from_points: Use the first two foreground points of each slice as opposite corners of a box.

    Returns:
        The prompts in XY pixels of the slices (x is i, y is j).

    Raises:
        PromptError: If the points or the region are not inside this image, or nothing marks the object on any slice.
    """
    foreground = voxel_points(sent.foreground, "foreground", image)
    background = voxel_points(sent.background, "background", image)
    region = voxel_region(sent.region, image)
    slices = list(dict.fromkeys(point[2] for point in [*foreground, *background]))

    bounds = range(image.frame_count)
    middle = None
    if region is not None:
        first, last = region[4:]
        middle = (first + last) // 2
        if first < last:
            bounds = range(min([first, *slices]), max([last, *slices]) + 1)
        slices = [middle, *(k for k in slices if k != middle)]

    marked: dict[int, Prompts] = {}
    corrections: dict[int, np.ndarray] = {}
    for k in slices:
        box = [region[0], region[2], region[1], region[3]] if region is not None and k == middle else None
        prompts = prompts_on_slice(k, foreground, background, box, box_from_points)
        if prompts is None:
            corrections[k] = np.array([point[:2] for point in background if point[2] == k])
        else:
            marked[k] = prompts.within(*image.ijk_shape[:2])
    if not marked:
        raise PromptError(
            "nothing marks the object: give a foreground point [i, j, k] or a roi [i0, i1, j0, j1, k0, k1]"
        )
    return VolumePrompts(marked, corrections, bounds)


class _FromViewer:
    """Base class of the transforms that map a viewer's prompts.

    Args:
        limits: A request with more points is refused.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits

    def sent(self, request: SegmentRequest) -> ViewerPrompts:
        """Return the prompts of a viewer's request.

        Raises:
            PromptError: For more points than the limits allow.
        """
        prompts = request.prompts
        if not isinstance(prompts, ViewerPrompts):
            raise TypeError(f"a request of source {request.source} has no viewer's prompts")
        self.limits.check_prompts(len(prompts.foreground) + len(prompts.background))
        return prompts


class ViewerPromptsd(_FromViewer):
    """Add ``slice``, ``slice_source``, ``objects``, an empty ``earlier`` from ``image`` and a viewer's ``request``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts; raises as :func:`viewer_prompts`, or for too many points."""
        image: MedicalImage = data["image"]
        request: SegmentRequest = data[REQUEST]
        k, prompts = viewer_prompts(image, self.sent(request), request.options.box_from_points)
        objects = [prompts.within(*image.ijk_shape[:2])]
        return {**data, "slice": k, "slice_source": "request", "objects": objects, "earlier": []}


class VolumePromptsd(_FromViewer):
    """Add ``volume_prompts`` from ``image`` and a viewer's ``request``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts; raises as :func:`volume_prompts`, or for too many points."""
        request: SegmentRequest = data[REQUEST]
        prompts = volume_prompts(data["image"], self.sent(request), request.options.box_from_points)
        return {**data, "volume_prompts": prompts}

"""OHIF's and 3D Slicer's vocabulary for a whole volume: voxel indices to prompts on the slices that have some.

The clients send the same as for one slice, see :mod:`lib.transforms.viewer_prompts`, with the points of all slices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume.propagation import VolumePrompts
from lib.transforms.request import REQUEST, SegmentRequest, ViewerPrompts
from lib.transforms.viewer_prompts import box_between, viewer_prompts_of, voxel_points, voxel_region


def volume_prompts(image: MedicalImage, sent: ViewerPrompts, box_from_points: bool = False) -> VolumePrompts:
    """The prompts on every slice that has some, and the slices that the object can be on.

    A region is a box on its middle slice. If it has more than one slice, the object is on none beyond it but those
    with points.

    Args:
        image: Gives the bounds; its ``ijk`` are the clients'.
        sent: What the viewer sent; its ``slice`` is not needed.
        box_from_points: Take the first two foreground points of each slice as opposite corners of a box.

    Returns:
        In XY pixels of the slices (x is i, y is j).

    Raises:
        PromptError: If these are no points or region of this image, or nothing marks the object on any slice.
    """
    foreground = voxel_points(sent.foreground, "foreground", image)
    background = voxel_points(sent.background, "background", image)
    region = voxel_region(sent.region, image)
    slices = {point[2] for point in [*foreground, *background]}

    bounds = range(image.frame_count)
    middle = None
    if region is not None:
        first, last = region[4:]
        middle = (first + last) // 2
        if first < last:
            bounds = range(min([first, *slices]), max([last, *slices]) + 1)
        slices.add(middle)

    marked: dict[int, Prompts] = {}
    corrections: dict[int, np.ndarray] = {}
    for k in sorted(slices):
        on_object, beside_it = ([point[:2] for point in group if point[2] == k] for group in (foreground, background))
        box = [region[0], region[2], region[1], region[3]] if region is not None and k == middle else None
        if box is None and box_from_points and len(on_object) >= 2:
            box, on_object = box_between(*on_object[:2]), on_object[2:]
        if box is None and not on_object:
            corrections[k] = np.array(beside_it)
        else:
            prompts = Prompts.from_clicks(on_object, beside_it, box=box)
            marked[k] = prompts.within(*image.ijk_shape[:2])
    if not marked:
        raise PromptError(
            "nothing marks the object: give a foreground point [i, j, k] or a roi [i0, i1, j0, j1, k0, k1]"
        )
    return VolumePrompts(marked, corrections, bounds)


class VolumePromptsd(Transform):
    """Take ``image`` and a viewer's ``request``, give ``volume_prompts``.

    Args:
        limits: A request with more points and rectangles is refused.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map them.

        Raises:
            PromptError: As :func:`volume_prompts`, or for too many points.
        """
        request: SegmentRequest = data[REQUEST]
        sent = viewer_prompts_of(request, self.limits)
        return {**data, "volume_prompts": volume_prompts(data["image"], sent, request.options.box_from_points)}

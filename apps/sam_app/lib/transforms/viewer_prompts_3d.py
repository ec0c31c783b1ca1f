"""Convert OHIF's and 3D Slicer's prompts, voxel indices, to prompts on all slices of a volume that have some.

The clients send the same fields as for one slice, see :mod:`lib.transforms.viewer_prompts`, with all slices' points.
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
from lib.transforms.viewer_prompts import prompts_on_slice, viewer_prompts_of, voxel_points, voxel_region


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


class VolumePromptsd(Transform):
    """Add ``volume_prompts`` from ``image`` and a viewer's ``request``.

    Args:
        limits: A request with more points and rectangles is refused.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the prompts.

        Raises:
            PromptError: As :func:`volume_prompts`, or for too many points.
        """
        request: SegmentRequest = data[REQUEST]
        sent = viewer_prompts_of(request, self.limits)
        return {**data, "volume_prompts": volume_prompts(data["image"], sent, request.options.box_from_points)}

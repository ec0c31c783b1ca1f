"""OHIF's and 3D Slicer's vocabulary for a whole volume: voxel indices to prompts on the slices that have some.

The clients send the same keys as for one slice, see :mod:`lib.transforms.viewer_prompts`, with the points of all
slices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.imaging.image import MedicalImage
from lib.sam.prompts import PromptError, Prompts
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts
from lib.transforms.limits import DEFAULT_MAX_PROMPTS, check_prompt_count
from lib.transforms.viewer_prompts import box_between, voxel_points, voxel_region


def volume_prompts(image: MedicalImage, request: Mapping[Hashable, Any]) -> VolumePrompts:
    """The prompts on every slice that has some, and the slices that the object can be on.

    A region is a box on its middle slice. If it has more than one slice, the object is on none beyond it but those
    with points.

    Args:
        image: Gives the bounds; its ``ijk`` are the clients'.
        request: ``foreground``, ``background``, ``roi``; each may be missing, None or empty. ``box_from_points`` True
            takes the first two foreground points of each slice as opposite corners of a box.

    Returns:
        In XY pixels of the slices (x is i, y is j).

    Raises:
        PromptError: If the values are no points or region of this image, or nothing marks the object on any slice.
    """
    foreground = voxel_points(request.get("foreground"), "foreground", image)
    background = voxel_points(request.get("background"), "background", image)
    region = voxel_region(request.get("roi"), image)
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
        if box is None and request.get("box_from_points") and len(on_object) >= 2:
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


def propagation_options(request: Mapping[Hashable, Any]) -> PropagationOptions:
    """How far to follow the object: ``max_slices``, a whole number or its text; 0 or missing for as far as it reaches.

    Raises:
        PromptError: If it is none.
    """
    value = request.get("max_slices")
    try:
        slices = 0 if value in (None, "") else int(str(value))
    except ValueError:
        slices = -1
    if slices < 0:
        raise PromptError(f"max_slices must be a whole number, 0 for as many as there are, not {value!r}")
    return PropagationOptions(max_slices=slices or None)


class VolumePromptsd(Transform):
    """Take ``image`` and the viewer's keys, give ``volume_prompts`` and ``propagation_options``.

    Args:
        max_prompts: Bound on the points of one request.
    """

    def __init__(self, max_prompts: int = DEFAULT_MAX_PROMPTS) -> None:
        self.max_prompts = max_prompts

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map them.

        Raises:
            PromptError: As :func:`volume_prompts` and :func:`propagation_options`, or for too many points.
        """
        result = dict(data)
        points = (result.get("foreground"), result.get("background"))
        check_prompt_count(sum(len(group) for group in points if isinstance(group, (list, tuple))), self.max_prompts)
        result["volume_prompts"] = volume_prompts(result["image"], result)
        result["propagation_options"] = propagation_options(result)
        return result

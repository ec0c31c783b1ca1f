"""A viewer's prompts on an image, in voxel indices, and what they say on each of its slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.imaging.image import MedicalImage
from lib.sam.models.registry import PromptKind
from lib.sam.prompts import PromptError, Prompts
from lib.sam.strokes import lasso_areas, lasso_prompts, scribble_points, with_points
from lib.sam.volume.corrections import start_prompts
from lib.transforms.request import Drawing, ViewerPrompts

VoxelPoints = list[tuple[float, float, int]]
"""Points as ``(i, j, k)``, inside the image."""

NO_REGION = "roi must be six finite numbers: [i0, i1, j0, j1, k0, k1]"


def no_points(name: str) -> str:
    """Return what to say of a value that is no list of points."""
    return f"{name} must be a list of points [i, j, k]"


@dataclass(frozen=True, eq=False)
class VoxelMarks:
    """A viewer's prompts on an image, checked against it.

    Args:
        foreground: Points on the object.
        background: Points beside it.
        region: ``(i0, i1, j0, j1, k0, k1)``, each pair in order and k within the volume.
        strokes: Of each scribble its slice, its points ``(n, 2)`` XY, and whether it is positive.
        areas: Of each lasso its slice, its area ``(rows, columns)`` bool, and whether it is positive.
    """

    foreground: VoxelPoints
    background: VoxelPoints
    region: tuple[float, float, float, float, int, int] | None
    strokes: Sequence[tuple[int, np.ndarray, bool]]
    areas: Sequence[tuple[int, np.ndarray, bool]]

    @classmethod
    def on(cls, image: MedicalImage, sent: ViewerPrompts) -> VoxelMarks:
        """Return what was sent for an image.

        Raises:
            PromptError: If the points or the region are not inside this image, or a drawing is not on one slice of it.
        """
        size = image.frame_size
        lines = [(*_on_one_slice(one, "scribble", image), one) for one in sent.scribbles]
        outlines = [(*_on_one_slice(one, "lasso", image), one.positive) for one in sent.lassos]
        areas = lasso_areas([xy for _, xy, _ in outlines], size)
        return cls(
            voxel_points(sent.foreground, "foreground", image),
            voxel_points(sent.background, "background", image),
            voxel_region(sent.region, image),
            [(k, scribble_points(xy, line.width, size), line.positive) for k, xy, line in lines],
            [(k, area, positive) for (k, _, positive), area in zip(outlines, areas, strict=True)],
        )

    @property
    def slices(self) -> list[int]:
        """The slice of each point and drawing; those of points come last, of those on the object the very last."""
        drawn = sorted([*self.areas, *self.strokes], key=lambda one: one[2])
        return [*(one[0] for one in drawn), *(point[2] for point in [*self.background, *self.foreground])]

    def beside(self, k: int) -> list[np.ndarray]:
        """Return the areas on a slice that do not belong to the object."""
        return [area for slice_, area, positive in self.areas if slice_ == k and not positive]

    def points_beside(self, k: int) -> np.ndarray:
        """Return the points on a slice that are beside the object, ``(n, 2)`` XY."""
        return self._points(k, self.background, is_positive=False)

    def prompts(
        self,
        k: int,
        box: list[float] | None,
        box_from_points: bool,
        kinds: Sequence[PromptKind],
        start: np.ndarray | None = None,
    ) -> Prompts | None:
        """Return the prompts on slice k; None if nothing marks the object there.

        Args:
            k: The slice.
            box: The box on this slice, XYXY, if there is one.
            box_from_points: Whether the first two points on the object are opposite corners of a box.
            kinds: Of prompts that the model was trained with.
            start: The mask on this slice to start from, if there is one.

        Raises:
            PromptError: If there are a box and a lasso, or one of them and a mask to start from.
        """
        areas = [area for slice_, area, positive in self.areas if slice_ == k and positive]
        if start is not None and (areas or box is not None):
            raise PromptError("the label to start from is the object: leave the roi and positive lassos out")
        if areas and box is not None:
            raise PromptError(f"there are a roi and a lasso around the object on slice {k}: send one of them")
        clicked = [point for point in self.foreground if point[2] == k]
        if box is None and not areas and start is None and box_from_points and len(clicked) >= 2:
            box, clicked = box_between(clicked[0][:2], clicked[1][:2]), clicked[2:]
        on_object, beside = self._points(k, clicked, is_positive=True), self.points_beside(k)
        if start is not None:
            return start_prompts(start, on_object, beside, kinds)
        if areas:
            return with_points(lasso_prompts(np.logical_or.reduce(areas), kinds), on_object, beside)
        if box is None and not len(on_object):
            return None
        return with_points(None if box is None else Prompts(box=np.array(box)), on_object, beside)

    def _points(self, k: int, clicked: VoxelPoints, *, is_positive: bool) -> np.ndarray:
        """Return the points among these on slice k and those of its scribbles."""
        found = np.array([point[:2] for point in clicked if point[2] == k]).reshape(-1, 2)
        strokes = (points for slice_, points, positive in self.strokes if slice_ == k and positive == is_positive)
        return np.concatenate([found, *strokes])


def _on_one_slice(drawing: Drawing, what: str, image: MedicalImage) -> tuple[int, np.ndarray]:
    """Return a drawing's slice and its points ``(n, 2)`` XY, also outside the image in its plane."""
    points = _as_ijk(drawing.points, f"the points of a {what}", image)
    slices = np.unique(np.round(points[:, 2]))
    if len(slices) > 1:
        raise PromptError(f"the points of a {what} are on several slices; draw it on one")
    if not 0 <= slices[0] < image.frame_count:
        raise PromptError(f"a {what} is on slice {slices[0]:g}; the image has 0 to {image.frame_count - 1}")
    return int(slices[0]), points[:, :2]


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
    array = _as_ijk(points, name, image)
    for point in array:
        index = np.round(point)
        if (index < 0).any() or (index >= image.ijk_shape).any():
            raise PromptError(
                f"the {name} point {[float(v) for v in point]} is outside the image, "
                f"whose shape in i, j, k is {list(image.ijk_shape)}"
            )
    return [(float(i), float(j), round(float(k))) for i, j, k in array]


def _as_ijk(points: Sequence[Sequence[float]], name: str, image: MedicalImage) -> np.ndarray:
    """Return points as ``(n, 3)``; for a single frame they may be ``(i, j)``."""
    array = np.asarray(points, dtype=np.float64)
    if array.shape[1] == 2 and image.frame_count == 1:
        array = np.column_stack([array, np.zeros(len(array))])
    if array.shape[1] != 3:
        raise PromptError(no_points(name))
    return array


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
        raise PromptError(NO_REGION)
    (i0, i1), (j0, j1), (k0, k1) = np.sort(array.reshape(3, 2), axis=1)
    last = image.frame_count - 1
    if k1 < 0 or k0 > last:
        raise PromptError(f"the roi is outside the image: its k is {k0:g} to {k1:g}, the image's 0 to {last}")
    return float(i0), float(i1), float(j0), float(j1), round(max(k0, 0)), round(min(k1, last))

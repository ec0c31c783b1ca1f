"""The planes in which a person looks at an image: which voxels lie where on the screen, and which side is which.

Pictures are laid out as radiologists expect them: on axial and coronal ones the patient's left is on the right, on
sagittal ones the back is; the back is below on axial ones, the feet on the others. Only whole axes are exchanged and
reversed, so that each pixel is one voxel, and a point on a picture means the same voxel on the way back.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

from lib.imaging.image import MedicalImage

PlaneName = Literal["axial", "coronal", "sagittal", "stored"]

_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of the ends of each axis of RAS+: the negative one, the positive one."""

_ACROSS_AND_DOWN: dict[PlaneName, tuple[tuple[int, int], tuple[int, int]]] = {
    "axial": ((0, -1), (1, -1)),
    "coronal": ((0, -1), (2, -1)),
    "sagittal": ((1, -1), (2, -1)),
}
"""By plane, the axis of RAS+ and its direction to the right of the picture, and downwards."""

_NORMALS: tuple[PlaneName, ...] = ("sagittal", "coronal", "axial")
"""The plane across each axis of RAS+."""

_LEAST_SHARE = 0.35
"""Of a direction: a letter is named for an axis that has at least this much of it, which is some 20 degrees."""


@dataclass(frozen=True)
class ViewPlane:
    """A plane of pictures of an image.

    Args:
        name: ``stored`` if the image states no position in a patient, and is shown as it is stored.
        axes: Voxel axes (0 for i, 1 for j, 2 for k) along a picture's columns, along its rows, and from one picture to
            the next.
        flipped: Whether the voxel index falls along the columns, and along the rows. From picture to picture it rises.
        size: Columns, rows, pictures.
        spacing: mm (1 if unknown) from column to column, from row to row, from picture to picture.
        letters: Letters of the patient's sides on the left, right, top and bottom of a picture; empty if unknown.
    """

    name: PlaneName
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    letters: tuple[str, str, str, str]

    def picture(self, image: MedicalImage, index: int) -> np.ndarray:
        """Return the values of one picture.

        Args:
            image: The image that the plane is of.
            index: Voxel index along the third of ``axes``, within ``size``.

        Returns:
            ``(rows, columns)`` in the image's modality units, or ``(rows, columns, 3)`` uint8: contiguous.
        """
        across, down, through = (2 - axis for axis in self.axes)  # frames are (k, j, i)
        return self._flipped(np.moveaxis(image.frames, (through, down, across), (0, 1, 2))[index])

    def laid_out(self, frame: np.ndarray) -> np.ndarray:
        """Return a frame laid out as a picture of this plane, which is that in which the image is stored.

        Args:
            frame: ``(rows, columns)`` or ``(rows, columns, 3)``, as it is stored.
        """
        return self._flipped(frame if self.axes[0] == 0 else frame.swapaxes(0, 1))

    def _flipped(self, turned: np.ndarray) -> np.ndarray:
        steps = tuple(-1 if is_flipped else 1 for is_flipped in reversed(self.flipped))
        return np.ascontiguousarray(turned[:: steps[0], :: steps[1]])


def view_planes(image: MedicalImage) -> list[ViewPlane]:
    """Return the planes in which an image can be looked at; the first is that in which it is stored.

    A volume in a patient has three, of which each has the two other axes of the patient's nearest to its own. A single
    frame has one; so have frames that are no volume, whose sides are not named, as each could lie elsewhere.
    """
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    is_frame = image.frame_count == 1
    if not image.is_geometric or not spacing.all() or (image.volume_fault and not is_frame):
        return [_as_stored(image, spacing)]
    directions = image.affine[:3, :3] / spacing
    world = _nearest_axes(directions)
    planes = [_plane(image, name, directions, world, spacing) for name in _ACROSS_AND_DOWN]
    stored = next(plane for plane in planes if plane.axes[2] == 2)
    others = [plane for plane in planes if plane is not stored]
    return [stored] if is_frame else [stored, *others]


def _as_stored(image: MedicalImage, spacing: np.ndarray) -> ViewPlane:
    known = tuple(float(length) if length > 0 else 1.0 for length in spacing)
    return ViewPlane("stored", (0, 1, 2), (False, False), image.ijk_shape, known, ("",) * 4)  # type: ignore[arg-type]


def _nearest_axes(directions: np.ndarray) -> tuple[int, ...]:
    """Return for i, j and k which axis of RAS+ is theirs: each another, and together the nearest."""
    return max(permutations(range(3)), key=lambda world: sum(abs(directions[world[axis], axis]) for axis in range(3)))


def _plane(
    image: MedicalImage, name: PlaneName, directions: np.ndarray, world: tuple[int, ...], spacing: np.ndarray
) -> ViewPlane:
    sides = _ACROSS_AND_DOWN[name]
    normal = _NORMALS.index(name)
    axes = tuple(world.index(axis) for axis in (sides[0][0], sides[1][0], normal))
    flipped = tuple(
        bool(directions[axis, voxel_axis] * sign < 0) for (axis, sign), voxel_axis in zip(sides, axes[:2], strict=True)
    )
    right, down = (
        directions[:, voxel_axis] * (-1 if is_flipped else 1)
        for voxel_axis, is_flipped in zip(axes[:2], flipped, strict=True)
    )
    letters = _letters(-right), _letters(right), _letters(-down), _letters(down)
    size, lengths = (tuple(values[axis] for axis in axes) for values in (image.ijk_shape, spacing.tolist()))
    return ViewPlane(name, axes, flipped, size, lengths, letters)  # type: ignore[arg-type]


def _letters(direction: np.ndarray) -> str:
    """Return the letters of a direction in RAS+, a unit vector: that of its largest share first."""
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    named = [axis for axis in order if abs(direction[axis]) >= _LEAST_SHARE]
    return "".join(_ENDS[axis][int(direction[axis] > 0)] for axis in named)

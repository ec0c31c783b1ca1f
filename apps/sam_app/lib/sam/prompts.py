"""Prompts for one object on one image: points, a box, an area, an earlier mask."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

FOREGROUND = 1
BACKGROUND = 0


class PromptError(ValueError):
    """The prompts cannot be used; the message says which value is invalid and what is valid."""


def _numbers(values: ArrayLike, what: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"{what} must be numbers") from None
    if not np.isfinite(array).all():
        raise PromptError(f"{what} must be finite numbers, not NaN or infinity")
    return array


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts for one object, checked by the constructor. Arrays are read-only.

    All coordinates are XY pixels of the original image: x to the right, y down, (0, 0) the centre of the top-left
    pixel, as in ``segment_anything.SamPredictor``.

    Args:
        points: ``(N, 2)`` clicks, XY.
        labels: ``(N,)``, 1 for a click on the object, 0 for one on the background.
        box: ``(4,)`` XYXY: left, top, right, bottom; or None.
        mask_logits: ``(S, S)`` float32 logits of an earlier prediction, padded like the model's input; or None.
        area: ``(H, W)`` bool of the image's size: about where the object is, drawn or from any source; or None. The
            predictor makes the mask prompt of it.
        encloses: Whether the area is what a lasso encloses: nothing beyond belongs to the object, and its core does.

    Raises:
        PromptError: For a wrong shape, a value that is not finite, a label that is neither 0 nor 1, a box without
            area, an empty area, or if nothing marks the object (background points alone do not).
    """

    points: np.ndarray = ()  # type: ignore[assignment]  # takes anything array-like, stores an array
    labels: np.ndarray = ()  # type: ignore[assignment]
    box: np.ndarray | None = None
    mask_logits: np.ndarray | None = None
    area: np.ndarray | None = None
    encloses: bool = False

    def __post_init__(self) -> None:
        self._check_points()
        if self.box is not None:
            box = _numbers(self.box, "box")
            if box.shape != (4,):
                raise PromptError(f"a box is four numbers (left, top, right, bottom), not shape {box.shape}")
            if box[0] >= box[2] or box[1] >= box[3]:
                raise PromptError(f"the box {box.tolist()} has no area: left < right and top < bottom must hold")
            self._store("box", box)
        self._check_mask()
        object.__setattr__(self, "encloses", self.encloses and self.area is not None)
        if self.box is self.mask_logits is self.area is None and FOREGROUND not in self.labels:
            raise PromptError("nothing marks the object: give a foreground point or a box")

    def _check_points(self) -> None:
        points = _numbers(self.points, "points")
        if points.size == 0:
            points = points.reshape(0, 2)
        if points.ndim != 2 or points.shape[1] != 2:
            raise PromptError(f"points must be a list of [x, y], not an array of shape {points.shape}")
        labels = _numbers(self.labels, "point labels")
        if labels.shape != (len(points),):
            raise PromptError(f"there are {len(points)} points but labels of shape {labels.shape}")
        if not np.isin(labels, (FOREGROUND, BACKGROUND)).all():
            raise PromptError("point labels must be 1 (foreground) or 0 (background)")
        self._store("points", points)
        self._store("labels", labels.astype(np.int64))

    def _check_mask(self) -> None:
        if self.mask_logits is not None:
            logits = _numbers(self.mask_logits, "mask logits")
            if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
                raise PromptError(f"mask logits must be a square, not of shape {logits.shape}")
            self._store("mask_logits", logits.astype(np.float32))
        if self.area is not None:
            if self.mask_logits is not None:
                raise PromptError("give an area or the logits of an earlier mask, not both")
            if self.area.ndim != 2 or self.area.dtype != bool or not self.area.any():
                raise PromptError("an area is an image of true and false of which something is true")
            self._store("area", self.area)

    def _store(self, name: str, array: np.ndarray) -> None:
        array = array.copy()
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @classmethod
    def from_clicks(
        cls,
        foreground: Sequence[Sequence[float]] = (),
        background: Sequence[Sequence[float]] = (),
        box: Sequence[float] | None = None,
    ) -> Prompts:
        """Create prompts from two lists of ``[x, y]`` and an optional XYXY box; foreground points come first.

        Raises:
            PromptError: As the constructor.
        """
        labels = [FOREGROUND] * len(foreground) + [BACKGROUND] * len(background)
        box_array = None if box is None else _numbers(box, "box")
        return cls(points=[*foreground, *background], labels=labels, box=box_array)  # type: ignore[arg-type]

    @property
    def is_lone_point(self) -> bool:
        """Whether there is only a single point, which is ambiguous: it can refer to a part or the whole."""
        return len(self.points) == 1 and self.is_points

    @property
    def is_points(self) -> bool:
        """Whether there are only points."""
        return self.box is self.mask_logits is self.area is None

    @property
    def is_area_alone(self) -> bool:
        """Whether nothing but an area marks the object."""
        return self.area is not None and self.box is None and FOREGROUND not in self.labels

    @property
    def key(self) -> bytes:
        """A digest that equal prompts have in common, and others do not."""
        digest = hashlib.sha256()
        for part in (self.points, self.labels, self.box, self.mask_logits, self.area):
            digest.update(b"-" if part is None else hashlib.sha256(part.tobytes()).digest())
        digest.update(bytes([self.encloses]))
        return digest.digest()

    def without_background(self) -> Prompts | None:
        """Return the prompts without background points; None if nothing marks the object then."""
        is_foreground = self.labels == FOREGROUND
        if not is_foreground.any() and self.box is None and self.area is None:
            return None
        return replace(self, points=self.points[is_foreground], labels=self.labels[is_foreground])

    def is_far_from(self, area: np.ndarray) -> bool:
        """Return whether a point on the object is farther from a mask ``(H, W)`` bool, not empty, than that is deep."""
        on_object = self.points[self.labels == FOREGROUND]
        columns, rows = np.clip(np.round(on_object).astype(int), 0, np.array(area.shape[::-1]) - 1).T
        far = ndimage.distance_transform_edt(~area)[rows, columns]
        return bool(len(far) and far.max() > ndimage.distance_transform_edt(area).max())

    def correcting(self, area: np.ndarray) -> Prompts:
        """Return these points as corrections of a mask ``(H, W)`` bool, not empty, with a box around it and them."""
        rows, columns = np.nonzero(area)
        on_object = self.points[self.labels == FOREGROUND]
        x, y = np.r_[columns, on_object[:, 0]], np.r_[rows, on_object[:, 1]]
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=np.float64)
        return replace(self, box=box, area=area, encloses=False)

    def within(self, width: int, height: int) -> Prompts:
        """Return these prompts for an image of this size: points are checked, the box is clipped to the image.

        A box that was dragged past the border refers to its part inside.

        Raises:
            PromptError: If a point lies outside the image, or the whole box does, or the area has another size.
        """
        for x, y in self.points:
            if not (-0.5 <= x < width and -0.5 <= y < height):
                raise PromptError(
                    f"the point ({x:g}, {y:g}) is outside the image: "
                    f"x must be from 0 to {width - 1}, y from 0 to {height - 1}"
                )
        box = self.box
        if box is not None:
            clipped = np.clip(box, 0, [width, height, width, height])
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                raise PromptError(f"the box {box.tolist()} is outside the image of {width} x {height} pixels")
            box = clipped
        if self.area is not None and self.area.shape != (height, width):
            rows, columns = self.area.shape
            raise PromptError(f"the area has {columns} x {rows} pixels, not {width} x {height}")
        return replace(self, box=box)

"""What the user marks, in the words of this client and in those of the server."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy.typing as npt

from sam_app_client.files import MaskInput

if TYPE_CHECKING:
    from sam_app_client.results import SegmentedImage

Coordinates: TypeAlias = Sequence[float] | npt.NDArray[Any]
"""A point: ``(x, y)`` of an image, ``(i, j, k)`` of a volume; a box: both its corners, one after the other."""

Preset: TypeAlias = Literal["abdomen", "lung", "mediastinum", "bone", "brain", "liver"]
"""A window for CT."""


@dataclass(frozen=True)
class Scribble:
    """A line drawn on the object, or beside it.

    Args:
        points: From which to which it goes: ``(x, y)``, or ``(i, j, k)`` on one slice of a volume.
        width: In pixels.
        positive: Whether it is on the object.
    """

    points: Sequence[Coordinates] | npt.NDArray[Any]
    width: float = 3.0
    positive: bool = True


@dataclass(frozen=True)
class Lasso:
    """An outline around the object, or around what does not belong to it.

    Args:
        points: Its corners, at least three: ``(x, y)``, or ``(i, j, k)`` on one slice of a volume.
        positive: Whether it is around the object.
    """

    points: Sequence[Coordinates] | npt.NDArray[Any]
    positive: bool = True


class Options(TypedDict, total=False):
    """How to segment an image.

    Attributes:
        model: One of ``client.health().models``; without it the server's default model.
        frame: Of a multi-frame image or volume, from 0; without it the middle one.
        window: ``(center, width)`` in the image's units, Hounsfield units for CT; without it the image's own, else one
            that suits.
        label: What the object is; the name of the segment in DICOM.
        multimask: Whether three candidates of each object are wanted, best first.
        automatic: False: without prompts nothing is looked for.
        candidate: With an earlier result: from which of its candidates to go on, 0 to 2.
        protect: What other masks cover already, and no new one shall.
    """

    model: str
    frame: int
    window: tuple[float, float]
    label: str
    multimask: bool
    automatic: bool
    candidate: int
    protect: MaskInput


class Prompts(Options, total=False):
    """What is marked on an image, in pixels: x to the right, y down, (0, 0) the centre of the top-left pixel.

    One box or lasso and the points are one object; of several each is an object. Without any prompt every object is
    looked for.

    Attributes:
        points: On the object, ``(x, y)`` each.
        negative_points: Beside it.
        boxes: ``(x0, y0, x1, y1)`` each, two opposite corners.
        scribbles: Lines on it or beside it.
        lassos: Outlines around it, or around what does not belong to it.
    """

    points: Sequence[Coordinates] | npt.NDArray[Any]
    negative_points: Sequence[Coordinates] | npt.NDArray[Any]
    boxes: Sequence[Coordinates] | npt.NDArray[Any]
    scribbles: Sequence[Scribble]
    lassos: Sequence[Lasso]


class StartingPrompts(Prompts, total=False):
    """As :class:`Prompts`, and what they correct.

    Attributes:
        start: A mask of one object, or an earlier result, which the points and drawings correct.
    """

    start: MaskInput | SegmentedImage


class VolumePrompts(TypedDict, total=False):
    """What is marked in a volume, in voxels: ``(i, j, k)`` is column, row and slice, from 0.

    Attributes:
        points: On the object, ``(i, j, k)`` each, on one slice or several.
        negative_points: Beside it.
        box: ``(i0, j0, k0, i1, j1, k1)``, two opposite corners. The object is marked on its middle slice.
        scribbles: Lines on it or beside it, each on one slice.
        lassos: Outlines, each on one slice.
        window: ``(center, width)`` in the image's units, or a preset for CT; without it one that suits.
        max_slices: How many slices to follow the object beyond those with prompts, to either side; without it all.
        slices: ``(first, last)``: the object is looked for on these slices alone.
        label: What the object is; prompts of one label refine what was found with the last ones.
        start: A label of one object, which the prompts correct.
        protect: A label that the new mask does not cover. Not together with ``start``.
    """

    points: Sequence[Coordinates] | npt.NDArray[Any]
    negative_points: Sequence[Coordinates] | npt.NDArray[Any]
    box: Coordinates
    scribbles: Sequence[Scribble]
    lassos: Sequence[Lasso]
    window: tuple[float, float] | Preset
    max_slices: int
    slices: tuple[int, int]
    label: str
    start: MaskInput
    protect: MaskInput


_SAME_NAME = ("model", "frame", "label", "multimask", "automatic", "candidate")


def check_names(prompts: Mapping[str, Any], kind: type[Options] | type[VolumePrompts]) -> None:
    """Raise for keywords that a TypedDict does not have, as Python does for those of a function.

    Raises:
        TypeError: If there is one; the message names what may have been meant.
    """
    for name in prompts.keys() - kind.__annotations__.keys():
        similar = difflib.get_close_matches(name, kind.__annotations__, 1)
        meant = f"; did you mean {similar[0]}?" if similar else f"; there are {', '.join(kind.__annotations__)}"
        raise TypeError(f"unexpected keyword argument {name!r}{meant}")


def sam_input(prompts: StartingPrompts) -> dict[str, Any]:
    """Return prompts as the server's ``sam_input``; ``start`` and ``protect`` are not among them.

    Raises:
        ValueError: If a point or a box has another number of coordinates.
    """
    found: dict[str, Any] = {name: value for name, value in prompts.items() if name in _SAME_NAME}
    if "points" in prompts:
        found["positive_points"] = _xy(prompts["points"])
    if "negative_points" in prompts:
        found["negative_points"] = _xy(prompts["negative_points"])
    if "boxes" in prompts:
        corners = [_numbers(box, 4, "a box is (x0, y0, x1, y1)") for box in prompts["boxes"]]
        found["rectangles"] = [
            {"startX": x0, "startY": y0, "width": x1 - x0, "height": y1 - y0} for x0, y0, x1, y1 in corners
        ]
    if "scribbles" in prompts:
        found["scribbles"] = [
            {"points": _xy(one.points), "width": float(one.width), "positive": one.positive}
            for one in prompts["scribbles"]
        ]
    if "lassos" in prompts:
        found["lassos"] = [{"points": _xy(one.points), "positive": one.positive} for one in prompts["lassos"]]
    if "window" in prompts:
        found["window"] = _window(prompts["window"])
    return found


def viewer_params(prompts: VolumePrompts) -> dict[str, Any]:
    """Return prompts as the ``params`` of the server's ``/infer``; ``start`` and ``protect`` are told as such alone.

    Raises:
        ValueError: If a point or the box has another number of coordinates.
    """
    found: dict[str, Any] = {
        name: value for name, value in prompts.items() if name in ("label", "max_slices", "slices")
    }
    if "points" in prompts:
        found["foreground"] = _ijk(prompts["points"])
    if "negative_points" in prompts:
        found["background"] = _ijk(prompts["negative_points"])
    if "box" in prompts:
        i0, j0, k0, i1, j1, k1 = _numbers(prompts["box"], 6, "the box of a volume is (i0, j0, k0, i1, j1, k1)")
        found["roi"] = [i0, i1, j0, j1, k0, k1]
    if "scribbles" in prompts:
        found["scribbles"] = [
            {"points": _ijk(one.points), "width": float(one.width), "positive": one.positive}
            for one in prompts["scribbles"]
        ]
    if "lassos" in prompts:
        found["lassos"] = [{"points": _ijk(one.points), "positive": one.positive} for one in prompts["lassos"]]
    if "window" in prompts:
        window = prompts["window"]
        found["window"] = window if isinstance(window, str) else _window(window)
    return {**found, "start_from_label": "start" in prompts, "protect": "protect" in prompts}


def _xy(points: Iterable[Coordinates]) -> list[dict[str, float]]:
    return [dict(zip("xy", _numbers(point, 2, "a point of an image is (x, y)"), strict=True)) for point in points]


def _ijk(points: Iterable[Coordinates]) -> list[list[float]]:
    return [_numbers(point, 3, "a point of a volume is (i, j, k)") for point in points]


def _window(window: Sequence[float]) -> dict[str, float]:
    return dict(zip(("center", "width"), _numbers(window, 2, "a window is (center, width)"), strict=True))


def _numbers(values: Coordinates, count: int, what: str) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count:
        raise ValueError(f"{what}, not {len(numbers)} numbers")
    return numbers

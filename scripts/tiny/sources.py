"""What ``sam_tiny`` learns from: synthetic scenes and real pictures, each brought to the size of its input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evaluation.cases import Case, find_cases
from held_out import is_held_out, place_of

from .canvas import MIN_AREA
from .scenes import Scenes
from .shapes import Rng

WHOLE_SHARE = 0.4
"""Of the real pictures, those that are shown whole; the others are cut to the surroundings of an object."""

LEAST_CUT = 24
"""Shortest of a cut's longer sides, in pixels of the picture."""


@dataclass(frozen=True)
class Drawn:
    """An image with some of its objects.

    Attributes:
        image: uint8 (3, S, S), zero outside the valid part.
        size: Valid height and width; the longer one is S.
        masks: bool (P, S, S), with repetition where there are fewer objects than asked for.
        pixel: Side of one pixel of the original image, which may have been coarser.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    masks: NDArray[np.bool_]
    pixel: float


class Source(Protocol):
    """A set of images to draw from."""

    def draw(self, rng: Rng, prompts: int) -> Drawn:
        """Return a random image with `prompts` of its objects."""


@dataclass(frozen=True)
class SyntheticSource:
    """Scenes, or parts of them at a coarser resolution."""

    scenes: Scenes

    def draw(self, rng: Rng, prompts: int) -> Drawn:
        """Return a random scene with `prompts` of its objects."""
        scenes = self.scenes
        scene = int(rng.integers(len(scenes)))
        which = _some(rng, np.arange(scenes.starts[scene + 1] - scenes.starts[scene]), prompts)
        size = (int(scenes.sizes[scene, 0]), int(scenes.sizes[scene, 1]))
        image, size, masks, pixel = zoom(rng, scenes.images[scene], size, scenes.object_masks(scene, which))
        return Drawn(np.repeat(image[None], 3, 0), size, masks, pixel)


@dataclass(frozen=True)
class Picture:
    """A real image.

    Attributes:
        name: Of its file.
        image: uint8 (H, W, 3).
        masks: bool (n, H, W), its objects.
    """

    name: str
    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class RealSource:
    """Real pictures, whole or cut so that one of their objects covers from little to most of it.

    Attributes:
        pictures: To draw from.
        side: S of what is drawn.
    """

    pictures: list[Picture]
    side: int

    def draw(self, rng: Rng, prompts: int) -> Drawn:
        """Return a random picture with `prompts` of its objects."""
        picture = self.pictures[rng.integers(len(self.pictures))]
        whole = (slice(0, picture.image.shape[0]), slice(0, picture.image.shape[1]))
        for _ in range(5):
            kept = whole if rng.random() < WHOLE_SHARE else _cut(rng, picture)
            drawn = _enlarged(rng, picture, kept, prompts, self.side)
            if drawn is not None:
                return drawn
        return self.draw(rng, prompts)


def read_pictures(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures of a folder to learn from, and those of other patients, which are held out.

    The folder has ``images/NAME.png`` with ``masks/NAME_LABEL_NUMBER.png``.

    Raises:
        CaseError: If there are none.
    """
    grouped: dict[str, list[Case]] = {}
    for case in find_cases(folder):
        grouped.setdefault(case.file.stem, []).append(case)
    parts: tuple[list[Picture], list[Picture]] = [], []
    for name, cases in grouped.items():
        place = place_of(folder.name, name)
        picture = Picture(name, cases[0].frame, np.stack([case.truth for case in cases]))
        parts[is_held_out(place[0] if place else name)].append(picture)
    return parts


def zoom(
    rng: Rng, image: NDArray[np.uint8], size: tuple[int, int], masks: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], tuple[int, int], NDArray[np.bool_], float]:
    """Take a part of a scene, as an image of a coarser resolution may show it, and enlarge it to the scene's size.

    Objects of which too little is left are replaced by others.

    Args:
        rng: Source of randomness.
        image: (S, S).
        size: Valid height and width.
        masks: (P, S, S).

    Returns:
        Image, valid size, masks, and the side of a pixel of the coarser image.
    """
    side = image.shape[0]
    part = rng.uniform(0.45, 1) if rng.random() < 0.5 else 1.0
    height, width = (max(int(extent * part), 8) for extent in size)
    top, left = (int(rng.integers(extent - kept + 1)) for extent, kept in zip(size, (height, width), strict=True))
    coarse = int(side * np.exp(rng.uniform(np.log(0.27), 0))) if rng.random() < 0.6 else side
    if part == 1 and coarse == side:
        return image, size, masks, 1.0
    pixel = side / coarse
    kept = (slice(top, top + height), slice(left, left + width))
    planes = torch.from_numpy(masks[:, kept[0], kept[1]].astype(np.float32))[None]
    planes = _resampled(planes, "bilinear", coarse) > 0.5
    enough = planes[0].sum((1, 2)) * pixel**2 >= MIN_AREA
    if not enough.any():
        return image, size, masks, 1.0
    order = torch.cat([torch.nonzero(enough)[:, 0], torch.nonzero(~enough)[:, 0]])
    places = torch.arange(len(order)) % int(enough.sum())
    planes = _resampled(planes[:, order[places]].float(), "nearest", side) > 0.5
    picture = torch.from_numpy(image[kept].astype(np.float32))[None, None]
    picture = _resampled(_resampled(picture, "bilinear", coarse), "bilinear", side).round().clamp(0, 255)
    height, width = planes.shape[-2:]
    result, moved = np.zeros_like(image), np.zeros_like(masks)
    result[:height, :width] = picture[0, 0].numpy()
    moved[:, :height, :width] = planes[0].numpy()
    return result, (height, width), moved, pixel


def _some(rng: Rng, indices: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Return `count` of the indices in random order, with repetition if there are fewer."""
    chosen = rng.permutation(indices)[:count]
    return np.concatenate([chosen, rng.choice(indices, count - len(chosen))])


def _resampled(planes: Tensor, mode: str, longest: int) -> Tensor:
    """Return planes (1, n, h, w) with a longer side of `longest`."""
    scale = longest / max(planes.shape[-2:])
    shape = [max(round(extent * scale), 1) for extent in planes.shape[-2:]]
    options = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
    return F.interpolate(planes, size=shape, mode=mode, **options)


def _cut(rng: Rng, picture: Picture) -> tuple[slice, slice]:
    """Return rows and columns around one of the picture's objects, which covers 8 to 90 % of their longer side."""
    mask = picture.masks[rng.integers(len(picture.masks))]
    ends = [(int(used[0]), int(used[-1]) + 1) for used in (np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)))]
    longest = max(stop - start for start, stop in ends)
    length = max(int(longest / np.exp(rng.uniform(np.log(0.08), np.log(0.9)))), longest, LEAST_CUT)
    kept = []
    for (start, stop), extent in zip(ends, mask.shape, strict=True):
        shown = min(length, extent)
        first = int(rng.integers(max(stop - shown, 0), min(start, extent - shown) + 1))
        kept.append(slice(first, first + shown))
    return kept[0], kept[1]


def _enlarged(rng: Rng, picture: Picture, kept: tuple[slice, slice], prompts: int, side: int) -> Drawn | None:
    """Return a part of a picture at the size of the input, or None if too little of any object is in it."""
    masks = picture.masks[:, kept[0], kept[1]]
    pixel = side / max(masks.shape[1:])
    seen = np.flatnonzero(masks.sum((1, 2)) * pixel**2 >= MIN_AREA)
    if not len(seen):
        return None
    planes = torch.from_numpy(masks[_some(rng, seen, prompts)].astype(np.float32))[None]
    image = torch.from_numpy(picture.image[kept].astype(np.float32)).permute(2, 0, 1)[None]
    image = _resampled(image, "bilinear", side).round().clamp(0, 255)
    planes = _resampled(planes, "bilinear", side) > 0.5
    height, width = planes.shape[-2:]
    result, moved = np.zeros((3, side, side), np.uint8), np.zeros((prompts, side, side), bool)
    result[:, :height, :width] = image[0].numpy()
    moved[:, :height, :width] = planes[0].numpy()
    return Drawn(result, (height, width), moved, max(pixel, 1.0))

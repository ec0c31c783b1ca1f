"""A label map that is painted back to front, and the objects that can be segmented in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .shapes import Field, Mask, Rng, smooth_noise

MIN_AREA = 60
"""Smallest object, in pixels of the scene, that is offered as a target."""


class Canvas:
    """Labels and values of a scene under construction.

    Label 0 is the background. Every further label has a parent, so that an organ can be segmented with
    or without what lies in it.

    Attributes:
        labels: int16 (S, S), label of each pixel.
        values: float32 (S, S), noise-free intensity; Hounsfield-like for CT scenes, else about 0 to 1.
        parents: parents[l] is the label that l was painted on; parents[0] is 0.
    """

    def __init__(self, size: int, background: float) -> None:
        self.size = size
        self.labels: NDArray[np.int16] = np.zeros((size, size), np.int16)
        self.values: Field = np.full((size, size), background, np.float32)
        self.parents = [0]

    def paint(self, mask: Mask, value: float, *, parent: int = 0, clip: bool = True) -> int:
        """Paint a new label and return it.

        Args:
            mask: Region to paint.
            value: Intensity of the region.
            parent: Label that the new one belongs to.
            clip: Restrict the region to the parent and all that lies in it.
        """
        if clip and parent:
            mask = mask & self.whole(parent)
        label = len(self.parents)
        self.parents.append(parent)
        self.labels[mask] = label
        self.values[mask] = value
        return label

    def texture(self, rng: Rng, mask: Mask, amplitude: float, cells: float) -> None:
        """Add smooth noise of the given amplitude to the values of a region."""
        if amplitude > 0:
            self.values[mask] += smooth_noise(rng, self.size, cells)[mask] * amplitude

    def whole(self, label: int) -> Mask:
        """Return the region of a label together with all labels that lie in it."""
        inside = np.zeros(len(self.parents), bool)
        inside[label] = True
        for child in range(label + 1, len(self.parents)):
            inside[child] = inside[self.parents[child]] and child != 0
        return np.asarray(inside[self.labels])

    def objects(self, rng: Rng, limit: int) -> list[Mask]:
        """Return up to `limit` connected target objects in random order."""
        found: list[Mask] = []
        for label in range(1, len(self.parents)):
            own = self.labels == label
            area = int(own.sum())
            if area < MIN_AREA // 2:
                continue
            whole = self.whole(label)
            whole_area = int(whole.sum())
            if whole_area > 1.08 * area:
                found += components(whole)
            if area > 0.3 * whole_area:
                found += components(own)
        order = rng.permutation(len(found))[:limit]
        return [found[i] for i in order]


def components(mask: Mask) -> list[Mask]:
    """Return the up to three largest 8-connected components of at least MIN_AREA pixels, largest first."""
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(numbered.ravel())[1:]
    largest = [i for i in np.argsort(areas)[::-1][:3] if areas[i] >= MIN_AREA]
    if count == 0 or not largest:
        return []
    total = mask.size
    return [numbered == i + 1 for i in largest if areas[i] < 0.8 * total]

"""Synthetic pictures that stay the same: what a model knew before is not to be forgotten over what a site teaches."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lib.learning.examples import Example

FILE = Path(__file__).with_name("fixed.npz")
"""``pictures`` (N, S, S) uint8; ``masks``, all their objects (M, S, S) packed by ``numpy.packbits``; ``owners`` (M,),
the picture of each. Made by ``scripts/tiny/fixed.py`` of scenes that no training of the bundled model uses."""


@cache
def fixed_examples() -> tuple[Example, ...]:
    """Return the pictures, each a study of its own, with every object as a label of its own."""
    with np.load(FILE) as stored:
        pictures, packed, owners = stored["pictures"], stored["masks"], stored["owners"]
    side = pictures.shape[1]
    masks = np.unpackbits(packed, axis=-1, count=side * side).reshape(len(packed), side, side).astype(bool)
    return tuple(
        Example(
            f"fixed {index}",
            np.repeat(picture[..., None], 3, 2),
            {f"object {number}": mask for number, mask in enumerate(masks[owners == index])},
        )
        for index, picture in enumerate(pictures)
    )

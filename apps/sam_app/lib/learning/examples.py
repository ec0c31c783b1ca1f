"""Accepted labels as examples to learn from, split by study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.learning.job import TrainingRequestError

HELD_OUT_SHARE = 0.2
"""Of the studies, those that a new version is judged by."""

MIN_OBJECT = 12
"""Smallest object, in pixels, that an interactive model learns from or is judged by."""

MOST_PICTURES = 300
"""Pictures that are learned from, or judged by."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Example:
    """One picture, and where some structures are in it.

    Args:
        study: Whose picture it is: never split between learning and judging.
        picture: ``(H, W, 3)`` uint8 after windowing, as the encoder gets it.
        masks: By label ``(H, W)`` bool; all False says that the structure is not in the picture, a missing label that
            nobody looked for it.
        in_one_piece: The labels that are one connected piece in the volume that the picture is a slice of.
    """

    study: str
    picture: NDArray[np.uint8]
    masks: Mapping[str, Mask]
    in_one_piece: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """SHA-256 of the picture and the masks, in hexadecimal: it names no patient."""
        content = hashlib.sha256(f"{self.picture.shape}".encode())
        content.update(np.ascontiguousarray(self.picture).data)
        for label, mask in sorted(self.masks.items()):
            content.update(label.encode())
            content.update(np.packbits(mask).data)
        return content.hexdigest()


def by_study(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Return the examples of each study."""
    of_study: dict[str, list[Example]] = {}
    for example in examples:
        of_study.setdefault(example.study, []).append(example)
    return of_study


def split(examples: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn from, and those of other studies to judge by.

    A study stays on its side when further ones arrive, as far as the share allows: the order is that of a hash of the
    studies' names.

    Raises:
        TrainingRequestError: If there are less than two studies.
    """
    of_study = by_study(examples)
    if len(of_study) < 2:
        raise TrainingRequestError(f"learning needs labels of at least 2 studies, there are {len(of_study)}")
    order = sorted(of_study, key=lambda study: hashlib.sha256(study.encode()).digest())
    judges = max(1, round(HELD_OUT_SHARE * len(order)))
    learned = [example for study in order[judges:] for example in of_study[study]]
    held_out = [example for study in order[:judges] for example in of_study[study]]
    return learned, held_out


def fewer(examples: Sequence[Example], most: int = MOST_PICTURES) -> list[Example]:
    """Return at most so many examples: of each study alike, evenly spread over it."""
    of_study = by_study(examples)
    while sum(map(len, of_study.values())) > most:
        longest = max(of_study, key=lambda study: len(of_study[study]))
        of_study[longest] = of_study[longest][::2] if len(of_study[longest]) > 1 else []
    return [example for of_one in of_study.values() for example in of_one]


def objects_of(mask: Mask, most: int | None = None) -> list[Mask]:
    """Return the connected objects of a mask ``(H, W)``, the largest first, without those below ``MIN_OBJECT``."""
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    order = [index for index in np.argsort(-sizes, kind="stable") if sizes[index] >= MIN_OBJECT]
    return [regions == index + 1 for index in order[:most]]


def is_in_one_piece(examples: Iterable[Example], label: str) -> bool:
    """Return whether a label is one connected piece wherever it is."""
    return all(
        label in example.in_one_piece for example in examples if label in example.masks and example.masks[label].any()
    )


def with_label(examples: Sequence[Example], label: str) -> list[Example]:
    """Return the examples in which somebody looked for a label."""
    return [example for example in examples if label in example.masks]

"""Examples from an image and its accepted label: which of a volume's slices teach what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lib.imaging.image import MedicalImage
from lib.imaging.labels.label_grid import labels_of_file
from lib.learning.examples import Example
from lib.learning.job import AcceptedLabel
from lib.transforms.masks import largest_component
from lib.transforms.window import choose_window, windowed_frame

MOST_SLICES = 12
"""With the label, of one image: spread evenly over it."""

MOST_ABSENT = 6
"""Without it, likewise."""

MARGIN = 2
"""Slices beside the labelled ones from which nothing is learned: where a structure ends is a matter of opinion."""

LEAST_RUN = 3
"""Labelled slices in a row from which on a structure counts as labelled through the volume."""

PIECE_SHARE = 0.99
"""Of a label's voxels, in its largest piece: beyond that it is in one piece, with what a brush left beside it."""


def read_examples(accepted: AcceptedLabel, read: Callable[[Path], MedicalImage]) -> list[Example]:
    """Return the examples in an image with its label.

    Raises:
        ImageError: If one of the files cannot be read, or they do not lie on each other.
    """
    image = read(accepted.image)
    labels = labels_of_file(accepted.label, image, read)
    present = {int(value): f"label_{int(value)}" for value in np.unique(labels) if value}
    patient = str(getattr(image.datasets[0], "PatientID", "") or "") if image.datasets else ""
    return list(examples_of(patient or accepted.study, image, labels, {**present, **accepted.names}))


def examples_of(study: str, image: MedicalImage, labels: np.ndarray, names: Mapping[int, str]) -> Iterator[Example]:
    """Yield the examples in an image.

    A slice teaches where a label is. That it is *not* there is taught by a whole image whose label set names it but
    does not hold it, and by slices beyond both ends of a structure that was labelled without a gap on at least
    ``LEAST_RUN`` slices; other slices may just not have been labelled.

    Args:
        study: Whose image it is.
        image: The image.
        labels: ``(K, rows, columns)`` numbers on its grid, 0 for background.
        names: The label set: names by number, also of those that the image does not hold.
    """
    chosen: dict[int, dict[str, np.ndarray]] = {}
    in_one_piece = set()
    for value, name in names.items():
        mask = labels == value
        if _is_in_one_piece(mask):
            in_one_piece.add(name)
        for k in _slices(mask.any(axis=(1, 2))):
            chosen.setdefault(k, {})[name] = mask[k]
    for k, masks in sorted(chosen.items()):
        transform, _ = choose_window(image, k)
        yield Example(study, windowed_frame(image, k, transform), masks, frozenset(in_one_piece))


def _is_in_one_piece(mask: np.ndarray) -> bool:
    """Return whether a label ``(K, rows, columns)`` was followed over some slices and is one piece."""
    if np.count_nonzero(mask.any(axis=(1, 2))) < LEAST_RUN:
        return False
    return bool(np.count_nonzero(largest_component(mask)) >= PIECE_SHARE * np.count_nonzero(mask))


def _slices(present: np.ndarray) -> list[int]:
    """Return the slices to learn from, by which of them ``(K,)`` hold the label."""
    inside = np.flatnonzero(present)
    if not len(inside):
        return _spread(np.arange(len(present)), MOST_ABSENT)
    first, last = int(inside[0]), int(inside[-1])
    is_through = len(inside) == last - first + 1 and len(inside) >= LEAST_RUN
    beyond = np.array([k for k in range(len(present)) if k < first - MARGIN or k > last + MARGIN], int)
    return _spread(inside, MOST_SLICES) + (_spread(beyond, MOST_ABSENT) if is_through else [])


def _spread(slices: np.ndarray, most: int) -> list[int]:
    """Return at most so many of the slices, evenly spread."""
    if len(slices) <= most:
        return [int(k) for k in slices]
    return [int(slices[index]) for index in np.linspace(0, len(slices) - 1, most).round().astype(int)]

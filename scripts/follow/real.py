"""Real images for training and measuring: single ones, and neighbouring slices where their names say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evaluation.cases import Case, find_cases
from held_out import NUMBERED, is_held_out, place_of

from .stacks import Slices


@dataclass(frozen=True)
class RealSet:
    """The images of a folder.

    Attributes:
        name: The folder's.
        train: Neighbouring slices, or single images, to learn from.
        held_out: Those of other patients.
    """

    name: str
    train: Sequence[Slices]
    held_out: Sequence[Slices]


def read_set(folder: Path) -> RealSet:
    """Return the objects of a folder with ``images/NAME.png`` and ``masks/NAME_LABEL_NUMBER.png``.

    Raises:
        CaseError: If there are none.
    """
    numbering = NUMBERED.get(folder.name)
    parts: tuple[list[Slices], list[Slices]] = [], []
    series: dict[tuple[str, int], list[tuple[int, Case]]] = defaultdict(list)
    for case in find_cases(folder):
        known = place_of(folder.name, case.file.stem)
        if known and numbering:
            place, phase = divmod(known[1], numbering.per_slice)
            series[known[0], phase].append((place, case))
        else:
            parts[is_held_out(case.file.stem)].append([_slice(case)])
    for (patient, _), cases in series.items():
        assert numbering is not None
        parts[is_held_out(patient)].extend(_neighbours(cases, numbering.gap))
    return RealSet(folder.name, *parts)


def _neighbours(cases: list[tuple[int, Case]], gap: int) -> list[Slices]:
    """Return the runs of slices without a larger gap and of one size, in order."""
    cases = sorted(cases, key=lambda each: each[0])
    runs = [[cases[0]]]
    for (place, case), (later, following) in pairwise(cases):
        if 0 < later - place <= gap and following.truth.shape == case.truth.shape:
            runs[-1].append((later, following))
        else:
            runs.append([(later, following)])
    return [[_slice(case) for _, case in run] for run in runs]


def _slice(case: Case) -> tuple:
    return case.frame, case.truth

"""Real images for training and measuring: single ones, and neighbouring slices where their names say so."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evaluation.cases import Case, find_cases

from .stacks import Slices

HELD_OUT_SHARE = 0.12
"""Of the patients, or of the images where patients are unknown: never trained on."""


@dataclass(frozen=True)
class Numbering:
    """How the names of a set's images say where they lie.

    Attributes:
        pattern: Matches a name; its groups are the patient and the image's number.
        per_slice: Images of one slice, such as the phases of a heartbeat; neighbours are of the same phase.
        gap: Slices are neighbours if they are at most this many apart.
    """

    pattern: str
    per_slice: int
    gap: int


NUMBERED = {
    "mr_cardiac_sunnybrook": Numbering(r"(SC-.+)-IM-\d+-(\d+)", per_slice=20, gap=2),
    "mr_t1_sarcoma": Numbering(r"(STS-\d+)-.*z(\d+)", per_slice=1, gap=7),
}
"""By the name of the set's folder."""


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
        match = numbering and re.fullmatch(numbering.pattern, case.file.stem)
        if match and numbering:
            place, phase = divmod(int(match.group(2)), numbering.per_slice)
            series[match.group(1), phase].append((place, case))
        else:
            parts[_is_held_out(case.file.stem)].append([_slice(case)])
    for (patient, _), cases in series.items():
        assert numbering is not None
        parts[_is_held_out(patient)].extend(_neighbours(cases, numbering.gap))
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


def _is_held_out(patient: str) -> bool:
    return zlib.crc32(patient.encode()) % 1000 < 1000 * HELD_OUT_SHARE

"""Which patients the trainings of the bundled networks never learn from."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

HELD_OUT_SHARE = 0.12
"""Of the patients, or of the images where patients are unknown."""


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

CREDITS = {
    "mr_cardiac_sunnybrook": "Sunnybrook Cardiac Data (Radau et al. 2009), CC0 1.0",
    "microscopy_nuclei_dsb18": "2018 Data Science Bowl, stage 1, corrected masks, CC0 1.0",
    "endoscopy_polyp_kvasir": "Kvasir-SEG's images as in HyperKvasir (Borgli et al. 2020), CC BY 4.0",
    "mr_t1_sarcoma": "soft tissue sarcomas of TCIA (Vallières et al. 2015) as prepared by IBSI, CC BY 3.0",
}
"""Whose images they are, by the name of a set's folder."""


def place_of(folder: str, name: str) -> tuple[str, int] | None:
    """Return the patient and number that the name of an image says, or None in a set that says neither.

    Args:
        folder: The set's name.
        name: Of the image, without its ending.
    """
    numbering = NUMBERED.get(folder)
    match = numbering and re.fullmatch(numbering.pattern, name)
    return (match.group(1), int(match.group(2))) if match else None


def is_held_out(patient: str) -> bool:
    """Return whether a patient, or an image of an unknown one, is kept for measuring."""
    return zlib.crc32(patient.encode()) % 1000 < 1000 * HELD_OUT_SHARE

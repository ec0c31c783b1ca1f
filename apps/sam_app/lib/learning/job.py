"""A training as one piece of work: of which labels, of which model, and what came of it.

It runs by :mod:`lib.learning.running`, in a process of its own (:mod:`lib.learning.process`) or in a command's. These
are its words, which need no networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.sam.models.registry import ModelSpec


class TrainingRequestError(ValueError):
    """A training cannot be what was asked for, or is not possible; the message says what is."""


@dataclass(frozen=True)
class AcceptedLabel:
    """An image with its final label, as files.

    Args:
        study: Whose image it is, unless its DICOM header says it.
        image: A file, or the folder of a DICOM series.
        label: A file with numbers on the image's grid.
        names: The label set: names by number; without a name a number is ``label_<number>``.
    """

    study: str
    image: Path
    label: Path
    names: Mapping[int, str]


@dataclass(frozen=True)
class Job:
    """What to learn.

    Args:
        spec: The model that is taught.
        model_folder: Of its checkpoint, and of the versions.
        accepted: The labels.
        names: What to teach: the model's name and ``auto_<label>``; empty: the model and every label.
        minutes: For all together.
    """

    spec: ModelSpec
    model_folder: Path
    accepted: Sequence[AcceptedLabel]
    names: Sequence[str] = ()
    minutes: float = 10.0


@dataclass(frozen=True)
class Step:
    """Where a training is.

    Args:
        name: What is taught now; empty before the first.
        stage: ``reading``, ``encoding``, ``learning`` or ``comparing``.
        part: Of the whole job, 0 to 1.
        loss: Of late; None where there is none.
    """

    name: str
    stage: str
    part: float
    loss: float | None = None


@dataclass(frozen=True)
class Taught:
    """What came of teaching one name.

    Args:
        name: What was to be taught.
        title: The version that was made; None if it could not be.
        served: Whether it is served.
        reason: Why it is, or is not, or could not be made.
        before: Mean Dice by kind of prompt of what was served.
        after: Of the new version.
    """

    name: str
    title: str | None
    served: bool
    reason: str
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.title is None:
            return f"{self.name}: not learned: {self.reason}"
        dice = ", ".join(f"{kind} {self.before[kind]:.3f} -> {value:.3f}" for kind, value in sorted(self.after.items()))
        return f"{self.title} {'is served' if self.served else 'is not served'}: {self.reason}. Dice: {dice}"

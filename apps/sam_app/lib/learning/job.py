"""A training as one piece of work: of which labels, of which models, and what came of it.

It runs in a process of its own, see :mod:`lib.learning.process`, or in a command's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.imaging.image import ImageError
from lib.learning.accepted import AcceptedLabel, read_examples
from lib.learning.examples import Example, TooFewError, split
from lib.learning.fitting import Effort
from lib.learning.fixed import fixed_examples
from lib.learning.teaching import Outcome, Teacher
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import VersionStore, auto_name
from lib.transforms.load import LoadMedicalImage


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

    @classmethod
    def of(cls, outcome: Outcome) -> Taught:
        """Return an outcome in short."""
        verdict, version = outcome.verdict, outcome.version
        before, after = dict(verdict.before), dict(verdict.after)
        return cls(version.name, version.title, verdict.accepted, verdict.reason, before, after)

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.title is None:
            return f"{self.name}: not learned: {self.reason}"
        dice = ", ".join(f"{kind} {self.before[kind]:.3f} -> {value:.3f}" for kind, value in sorted(self.after.items()))
        return f"{self.title} {'is served' if self.served else 'is not served'}: {self.reason}. Dice: {dice}"


Watch = Callable[[Step], None]


def run(job: Job, watch: Watch = lambda _: None) -> Iterator[Taught]:
    """Teach everything that a job names, and yield what came of each.

    Args:
        job: What to learn.
        watch: Told where it is; raises to stop.

    Raises:
        TooFewError: If there is nothing to learn from.
        CheckpointError: If the model's checkpoint is missing or wrong.
        UntrainableError: If the model cannot be taught.
    """
    store = CheckpointStore(job.model_folder)
    store.verified(job.spec)
    watch(Step("", "reading", 0.0))
    examples = _examples(job)
    split(examples)
    labels = sorted({label for example in examples for label, mask in example.masks.items() if mask.any()})
    known: dict[str, str | None] = {job.spec.name: None, **{auto_name(label): label for label in labels}}
    names = list(job.names) or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TooFewError(f"there is nothing to learn {', '.join(unknown)} from, only {', '.join(known)}")
    predictor = Engine([job.spec], job.model_folder, device="cpu").published(job.spec.name)
    teacher = Teacher(job.spec, predictor, store, VersionStore(job.model_folder), fixed_examples())
    effort = Effort(seconds=60 * job.minutes / len(names))
    for index, name in enumerate(names):

        def progress(part: float, loss: float, name: str = name, index: int = index) -> None:
            watch(Step(name, "learning", (index + part) / len(names), round(loss, 4)))

        def say(stage: str, name: str = name, index: int = index) -> None:
            watch(Step(name, stage, index / len(names)))

        label = known[name]
        try:
            if label is None:
                yield Taught.of(teacher.improve(examples, effort, progress, say))
            else:
                yield Taught.of(teacher.automate(label, examples, effort, progress, say))
        except (TooFewError, ValueError, FloatingPointError) as error:
            yield Taught(name, None, False, str(error))


def _examples(job: Job) -> list[Example]:
    """Return the examples in all labels; those that cannot be read are left out."""
    read = LoadMedicalImage()
    examples: list[Example] = []
    for accepted in job.accepted:
        try:
            examples += read_examples(accepted, read)
        except (ImageError, OSError):
            continue
    return examples

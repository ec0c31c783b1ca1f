"""The work of a training, from the labels' files to versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.imaging.image import ImageError
from lib.learning.accepted import read_examples
from lib.learning.examples import Example, split
from lib.learning.fitting import Effort
from lib.learning.fixed import fixed_examples
from lib.learning.job import Job, Step, Taught, TrainingRequestError
from lib.learning.teaching import Outcome, Teacher
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.versions import auto_name
from lib.transforms.load import LoadMedicalImage

Watch = Callable[[Step], None]


def run(job: Job, watch: Watch = lambda _: None) -> Iterator[Taught]:
    """Teach everything that a job names, and yield what came of each.

    Args:
        job: What to learn.
        watch: Told where it is; raises to stop.

    Raises:
        TrainingRequestError: If there is nothing to learn from, or the model cannot be taught.
        CheckpointError: If the model's checkpoint is missing or wrong.
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
        raise TrainingRequestError(f"there is nothing to learn {', '.join(unknown)} from, only {', '.join(known)}")
    engine = Engine([job.spec], job.model_folder, device="cpu", cache_bytes=0)
    predictor = engine.published(job.spec.name)
    teacher = Teacher(job.spec, predictor, store, engine.versions, fixed_examples())
    effort = Effort(seconds=60 * job.minutes / len(names))
    for index, name in enumerate(names):

        def progress(part: float, loss: float, name: str = name, index: int = index) -> None:
            watch(Step(name, "learning", (index + part) / len(names), round(loss, 4)))

        def say(stage: str, name: str = name, index: int = index) -> None:
            is_learned = stage == "comparing"  # what is left is not counted; it never goes back
            watch(Step(name, stage, (index + is_learned) / len(names)))

        label = known[name]
        try:
            if label is None:
                outcome = teacher.improve(examples, effort, progress, say)
            else:
                outcome = teacher.automate(label, examples, effort, progress, say)
        except (TrainingRequestError, ValueError, FloatingPointError) as error:
            yield Taught(name, None, False, str(error))
        else:
            if outcome.verdict.accepted:
                engine.predictor(name)  # converts the decoder, so that no click waits for that
            yield _in_short(outcome)


def _in_short(outcome: Outcome) -> Taught:
    verdict, version = outcome.verdict, outcome.version
    before, after = dict(verdict.before), dict(verdict.after)
    return Taught(version.name, version.title, verdict.accepted, verdict.reason, before, after)


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

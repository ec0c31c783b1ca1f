"""Teaches the models by the accepted labels of a folder of studies; see --help."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.imaging.image import ImageError
from lib.learning.accepted import read_examples
from lib.learning.examples import Example, TooFewError, split
from lib.learning.fitting import Effort
from lib.learning.fixed import fixed_examples
from lib.learning.pupil import UntrainableError
from lib.learning.teaching import Outcome, Teacher
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError, CheckpointStore
from lib.sam.models.registry import DEFAULT_MODEL, UnknownModelError, get_spec
from lib.sam.models.versions import AUTO, VersionError, VersionStore, auto_name
from lib.server.observe.log_hygiene import clean_logs
from lib.studies.folder_datastore import FolderDatastore
from lib.trainers.accepted_labels import accepted_labels
from lib.transforms.load import LoadMedicalImage

REFUSALS = (CheckpointError, TooFewError, UnknownModelError, UntrainableError, VersionError)
"""Errors of what was asked for, whose messages say what to do."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/train_labels",
        description="Teaches a model by the final labels of a folder of studies: to answer prompts better, and to find "
        "each label by itself. A new version is served, by running servers too, only if it is better on studies that "
        "it has not learned from. It runs at low priority.",
        epilog="Ends with 0 if every training ended (also if its version was refused), 1 if one could not be done, 2 "
        "for a wrong call.",
    )
    parser.add_argument("--studies", type=Path, required=True, metavar="FOLDER", help="as the server gets it")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="that is taught (default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"the model's name, or {AUTO}LABEL; may be given more than once (default: the model and every label)",
    )
    parser.add_argument("--minutes", type=float, default=10, help="for all together (default: %(default)s)")
    parser.add_argument("--model-folder", type=Path, default=MODEL_FOLDER, help=argparse.SUPPRESS)
    parser.add_argument(
        "--study-pattern",
        default="(.*)",
        metavar="REGEX",
        help="its first group is the study in an image's id, where one patient has several files (default: the id)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = make_parser()
    asked = parser.parse_args(argv)
    if not asked.studies.is_dir():
        parser.error(f"there is no folder {asked.studies}")
    if not asked.minutes > 0:
        parser.error("--minutes must be a number above 0")
    clean_logs()
    logging.getLogger("lib.studies").setLevel(logging.ERROR)  # that files are left out is said by the server
    os.nice(10)
    try:
        return _teach(asked)
    except REFUSALS as error:
        print(f"Cannot learn: {error}", file=sys.stderr)
        return 1


def _teach(asked: argparse.Namespace) -> int:
    spec = get_spec(asked.model)
    store = CheckpointStore(asked.model_folder)
    store.verified(spec)
    examples = _examples(asked.studies, asked.study_pattern)
    split(examples)
    labels = sorted({label for example in examples for label, mask in example.masks.items() if mask.any()})
    known = {spec.name: None, **{auto_name(label): label for label in labels}}
    names = asked.only or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TooFewError(f"there is nothing to learn {', '.join(unknown)} from, only {', '.join(known)}")
    predictor = Engine([spec], asked.model_folder, device="cpu").published(spec.name)
    teacher = Teacher(spec, predictor, store, VersionStore(asked.model_folder), fixed_examples())
    effort = Effort(seconds=60 * asked.minutes / len(names))
    is_done = True
    for name in names:
        label = known[name]
        try:
            outcome = teacher.automate(label, examples, effort) if label else teacher.improve(examples, effort)
        except (TooFewError, ValueError) as error:
            print(f"{name}: not learned: {error}", file=sys.stderr)
            is_done = False
        else:
            print(_summary(outcome), flush=True)
    return 0 if is_done else 1


def _examples(studies: Path, study_pattern: str) -> list[Example]:
    """Return the examples in all accepted labels that can be read."""
    read = LoadMedicalImage()
    datastore = FolderDatastore(studies, studies, read, read, follows=False)
    examples: list[Example] = []
    try:
        for accepted in accepted_labels(datastore, study_pattern):
            try:
                examples += read_examples(accepted, read)
            except ImageError as error:
                print(f"A label of {accepted.study} is left out: {error}", file=sys.stderr)
    finally:
        datastore.close()
    print(
        f"{len(examples)} pictures of {len({one.study for one in examples})} studies have accepted labels", flush=True
    )
    return examples


def _summary(outcome: Outcome) -> str:
    """Return what came of a training, in a line."""
    verdict = outcome.verdict
    dice = ", ".join(
        f"{kind} {verdict.before[kind]:.3f} -> {value:.3f}" for kind, value in sorted(verdict.after.items())
    )
    fate = "is served" if verdict.accepted else "is not served"
    return f"{outcome.version.title} {fate}: {verdict.reason}. Dice: {dice}"


if __name__ == "__main__":
    sys.exit(main())

"""Teaches the models by the accepted labels of a folder of studies; see --help."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.learning.job import Job, TrainingRequestError
from lib.learning.running import run
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.registry import DEFAULT_MODEL, UnknownModelError, get_spec
from lib.sam.models.versions import AUTO, VersionError
from lib.server.observe.log_hygiene import clean_logs
from lib.studies.folder_datastore import FolderDatastore
from lib.trainers.accepted_labels import accepted_labels
from lib.transforms.load import LoadMedicalImage

REFUSALS = (CheckpointError, TrainingRequestError, UnknownModelError, VersionError)
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
    """Do what was asked for, and print what came of it; returns the exit status."""
    datastore = FolderDatastore(asked.studies, asked.studies, LoadMedicalImage(), LoadMedicalImage(), follows=False)
    try:
        accepted = list(accepted_labels(datastore, asked.study_pattern))
    finally:
        datastore.close()
    print(f"{len(accepted)} images have accepted labels", flush=True)
    is_done = True
    for taught in run(Job(get_spec(asked.model), asked.model_folder, accepted, asked.only or (), asked.minutes)):
        print(taught, flush=True)
        is_done = is_done and taught.title is not None
    return 0 if is_done else 1


if __name__ == "__main__":
    sys.exit(main())

"""Lists what was learned here, and chooses which version is served; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.versions import VersionError, VersionStore


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/models",
        description="Versions of the models that were learned from accepted labels. Running servers follow at their "
        "next answer; what is being answered finishes with the version it began with.",
    )
    parser.add_argument("--model-folder", type=Path, default=MODEL_FOLDER, help=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="which versions there are, and how good")
    promote = actions.add_parser("promote", help="serve a version from now on")
    promote.add_argument("version", metavar="NAME@NUMBER", help="as listed")
    rollback = actions.add_parser("rollback", help="serve what was served before")
    rollback.add_argument("name", metavar="NAME", help="a model's, or auto_LABEL")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    asked = make_parser().parse_args(argv)
    store = VersionStore(asked.model_folder)
    try:
        if asked.action == "list":
            _list(store)
        elif asked.action == "promote":
            name, _, number = asked.version.rpartition("@")
            if not number.isascii() or not number.isdigit() or not name:
                raise VersionError(f"{asked.version!r} is not NAME@NUMBER, as in sam_tiny@3")
            print(f"{store.promote(name, int(number)).title} is served now")
        else:
            earlier = store.rollback(asked.name)
            print(f"{earlier.title if earlier else f'{asked.name} as it was before any learning'} is served now")
    except VersionError as error:
        print(f"Cannot do that: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The model folder cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _list(store: VersionStore) -> None:
    names = store.names()
    if not names:
        print("Nothing was learned here yet: see scripts/train_labels --help")
    for name in names:
        served = store.served(name)
        for version in store.versions(name):
            verdict = version.manifest.get("verdict", {})
            dice = ", ".join(f"{kind} {value:.3f}" for kind, value in sorted(verdict.get("after", {}).items()))
            learned = version.manifest.get("learned", {})
            mark = "served" if version.number == served else "      "
            created, pictures = version.manifest.get("created", "?"), learned.get("pictures", "?")
            print(f"{mark} {version.title}  {created}  {pictures} pictures  Dice: {dice}  ({verdict.get('reason')})")


if __name__ == "__main__":
    sys.exit(main())

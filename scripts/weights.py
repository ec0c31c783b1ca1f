"""The models' checkpoints from the command line: which are there, fetching, checking, adding."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.sam.models.checkpoints import CheckpointStore
    from lib.sam.models.registry import ModelSpec

APP_FOLDER = Path(__file__).resolve().parents[1] / "apps" / "sam_app"

STATES = {
    "missing": "missing",
    "unverified": "unverified",
    "verified": "verified",
    "mismatch": "does not match",
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/weights",
        description="The models' checkpoints, in apps/sam_app/model.",
        epilog="SHA-256 sums are recorded when a file is first verified, and checked ever after.",
    )
    parser.add_argument("--folder", type=Path, default=APP_FOLDER / "model", help="another model folder")
    parser.add_argument("--model-specs", metavar="FILE", type=Path, help="your own models, as for --conf model_specs")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="each model's file: state, size, licence, use, prompts, SHA-256")
    download = commands.add_parser("download", help="fetch a model's file from its publisher; goes on where it was cut")
    download.add_argument("name", metavar="NAME", help="the model, e.g. sam_vit_b")
    verify = commands.add_parser("verify", help="read the files and check them")
    verify.add_argument("names", metavar="NAME", nargs="*", help="models; all that are present when there is none")
    add = commands.add_parser("add", help="copy a file in, after finding which model it fits")
    add.add_argument("file", metavar="FILE", type=Path, help="a checkpoint that you have")
    add.add_argument("--model", metavar="NAME", help="the model it is for, where the file does not tell")
    add.add_argument("--replace", action="store_true", help="take the place of another file that was verified")
    return parser


def list_models(store: CheckpointStore, specs: list[ModelSpec]) -> None:
    """Prints two lines a model: what is known of it, and below it the file."""
    row = "{:<20} {:<14} {:>13}  {:<12}  {:<13}  {}"
    print(row.format("model", "state", "bytes", "licence", "use", "prompts"), "  file  SHA-256", sep="\n")
    for spec in specs:
        path, state, known = store.path(spec), store.state(spec), store.known(spec)
        size = f"{path.stat().st_size:,}" if path.is_file() else "-"
        use = "research only" if spec.research_only else "any"
        print(row.format(spec.name, STATES[state], size, spec.license, use, ", ".join(spec.prompts)))
        print(f"  {spec.checkpoint}" + (f"  {known.sha256}" if known else ""))


def verify(store: CheckpointStore, specs: list[ModelSpec]) -> bool:
    """Checks each file and prints what came of it; whether all are right."""
    right = True
    for spec in specs:
        try:
            digests = store.verify(spec)
        except ValueError as error:
            print(f"{spec.name}: {error}", file=sys.stderr)
            right = False
        else:
            publisher = "as published" if spec.has_checksum else "(no published checksum)"
            print(f"{spec.name}: verified, SHA-256 {digests.sha256} {publisher}")
    return right


def run(arguments: argparse.Namespace) -> bool:
    """Does what the command line says; whether all was right."""
    from lib.sam.models.checkpoints import CheckpointStore
    from lib.sam.models.model_specs import known_models
    from lib.sam.models.registry import get_spec

    models = known_models(arguments.model_specs)
    store = CheckpointStore(arguments.folder)
    if arguments.command == "list":
        list_models(store, list(models.values()))
    elif arguments.command == "verify":
        named = [get_spec(name, models) for name in arguments.names]
        present = [spec for spec in models.values() if store.state(spec) != "missing"]
        return verify(store, named or present)
    elif arguments.command == "download":
        spec = get_spec(arguments.name, models)
        digests = store.download(spec)
        print(f"{spec.name}: {spec.checkpoint} is in place, SHA-256 {digests.sha256}")
    else:
        asked = get_spec(arguments.model, models) if arguments.model else None
        spec = store.add(arguments.file, asked, models=models, replace=arguments.replace)
        print(f"{spec.name}: {spec.checkpoint} is in place, SHA-256 {store.verified(spec).sha256}")
    return True


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if all was right, 1 if a file was not, 2 for a wrong call."""
    arguments = make_parser().parse_args(argv)
    from lib.sam.models.registry import UnknownModelError

    try:
        return 0 if run(arguments) else 1
    except UnknownModelError as error:
        print(f"scripts/weights: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"scripts/weights: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/weights: interrupted; a download goes on from here when it is called again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""One file with all that a machine without any network needs: made here, installed there."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"
PYTHONS = ("3.11", "3.12", "3.13")

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class BundleError(ValueError):
    """The bundle cannot be made or installed; the message says why and what would do."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bundle",
        description="One file with the repository, all packages and the chosen checkpoints, for a machine without any "
        "network. There `tar --zstd -xf FILE` and scripts/start in the unpacked folder do as well as `install`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make it; what was fetched is kept in bundles/, and not fetched again")
    make.add_argument("--output", type=Path, metavar="FILE", help="the file; without it one in bundles/")
    make.add_argument(
        "--python",
        action="append",
        metavar="3.N",
        help="a Python of the other machine, repeatable; without it this one",
    )
    make.add_argument(
        "--models", default="", metavar="A,B", help="models whose checkpoints come along, beside sam_tiny"
    )
    make.add_argument(
        "--torch",
        metavar="lock|cpu|URL|FOLDER",
        help="PyTorch's build: of the lock (for CUDA, 3 GB), or for CPUs from its own index, another index or a folder "
        "of wheels; without it the build that is installed here",
    )
    install = commands.add_parser("install", help="unpack it, check every file, and set it up; needs no network")
    install.add_argument("file", type=Path, metavar="FILE", help="the bundle")
    install.add_argument("folder", type=Path, metavar="FOLDER", help="where to; not there yet, or empty")
    return parser


def program(name: str) -> str:
    """The path of a program that the machine has.

    Raises:
        BundleError: If it is not there.
    """
    found = shutil.which(name)
    if not found:
        raise BundleError(f"{name} is not there (Debian, Ubuntu: apt-get install {name}, also from installation media)")
    return found


def in_megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def install(file: Path, folder: Path) -> None:
    """Unpack a bundle under a temporary name, check all of it, rename it and set it up.

    Raises:
        BundleError: If it is damaged, or there is no place for it.
        OSError: If it cannot be written.
    """
    file, folder = file.resolve(), folder.resolve()
    if not file.is_file():
        raise BundleError(f"there is no file {file}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(
            f"{folder} is there already: name another folder, and move what is to be kept over afterwards"
        )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        print(f"Unpacking {file.name} ({in_megabytes(file.stat().st_size)})", file=sys.stderr)
        unpack(file, part)
        print("Checking every file", file=sys.stderr)
        check(part)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    subprocess.run([str(folder / "scripts" / "setup")], check=True)
    print(f"Installed. To serve: {folder / 'scripts' / 'start'}")


def unpack(file: Path, folder: Path) -> None:
    """Unpack a bundle's top folder into another folder.

    Raises:
        BundleError: If it is damaged.
    """
    show = ["--progress"] if sys.stderr.isatty() else ["--quiet"]
    with subprocess.Popen([program("zstd"), "-d", "-c", *show, str(file)], stdout=subprocess.PIPE) as process:
        options = ["--strip-components=1", "--no-same-owner", "--no-same-permissions"]
        done = subprocess.run([program("tar"), "-x", "-C", str(folder), *options], stdin=process.stdout, check=False)
    if process.returncode or done.returncode:
        raise BundleError(
            f"{file.name} is damaged, incomplete or no bundle, or the disk is full (see above): compare its SHA-256 "
            "with the one that `scripts/bundle make` printed, and copy it again. Nothing was installed"
        )


def check(folder: Path) -> None:
    """Compare all files of an unpacked bundle with its checksums.

    Raises:
        BundleError: If one differs, is missing or was not listed.
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except OSError as error:
        raise BundleError(f"the bundle has no {SUMS}: it is incomplete or none. Nothing was installed") from error
    expected = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    wrong = sorted(present.symmetric_difference({*expected, SUMS}))
    for name in present & expected.keys():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected[name]:
                wrong.append(name)
    if wrong:
        raise BundleError(f"the bundle is damaged: {', '.join(wrong[:5])} is not as listed. Nothing was installed")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    arguments = make_parser().parse_args(argv)
    try:
        if arguments.command == "make":
            from bundle_making import make

            make(arguments.output, arguments.python, arguments.models, arguments.torch)
        else:
            install(arguments.file, arguments.folder)
    except (ValueError, OSError) as error:
        print(f"scripts/bundle: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        print("scripts/bundle: interrupted; `make` goes on from here when it is called again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

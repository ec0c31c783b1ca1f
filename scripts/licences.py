"""The licences of what requirements.txt names, as a table in docs/licences.md, and which of them mention the GPL."""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
from functools import cache
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from package_licences import UNKNOWN, locked, normalised, packages

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCK = ROOT / "requirements.txt"

_TABLE = re.compile(r"(?<=\| --- \| --- \| --- \|\n)(?:\| `.*\n)+(?=<!-- end of the table of scripts/licences -->)")
_ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \| [^|]+ \|")
_COPYLEFT_SECTION = re.compile(r"^## Copyleft\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
_LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice|third.?party", re.IGNORECASE)
_GPL = re.compile(r"\b[AL]?GPL|G(NU|nu) (\w+ )?G(ENERAL|eneral) P(UBLIC|ublic)")
_COPYLEFT = re.compile(r"\b([AL]?GPL|MPL|EPL|CDDL|EUPL)\b")
_GPL_LIBRARY = re.compile(r"lib(gomp|gfortran|quadmath|readline)\b.*\.so")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/licences",
        description="The licences of what requirements.txt names, read from the installed packages. Without --write it "
        "ends with 1 if docs/licences.md says otherwise, or does not name a package that has copyleft parts.",
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/licences.md")
    return parser


def installed() -> Path:
    """The folder of this Python's packages."""
    return Path(sysconfig.get_path("purelib"))


def rows(page: str) -> dict[str, str]:
    """The table's rows for the lock, by package: as installed here, else as the page has them in the locked version.

    Not all that is locked is installed everywhere: CUDA's libraries, and what other versions of Python need.

    Args:
        page: The page as it is.

    Raises:
        ValueError: If a licence is not known; the message says of which packages.
    """
    wanted = {name: ", ".join(versions) for name, versions in locked(LOCK).items()}
    table = _TABLE.search(page)
    kept = {match[1]: match for match in _ROW.finditer(table[0] if table else "")}
    made = {name: kept[name][0] for name, version in wanted.items() if name in kept and kept[name][2] == version}
    unknown = []
    for package in packages([installed()]):
        if package.name in wanted:
            made[package.name] = f"| `{package.name}` | {wanted[package.name]} | {package.licence} |"
            if package.licence == UNKNOWN:
                unknown.append(package.name)
    unknown += wanted.keys() - made.keys()
    if unknown:
        raise ValueError(
            f"the licence of {', '.join(sorted(unknown))} is not known: read it where it is published, and put it into "
            "package_licences.py, or into docs/licences.md if the package is not installed here"
        )
    return dict(sorted(made.items()))


def with_table(page: str) -> str:
    """The page with the table as it should be.

    Raises:
        ValueError: If a licence is not known.
    """
    table = "".join(f"{row}\n" for row in rows(page).values())
    return _TABLE.sub(lambda _: table, page)


@cache
def copyleft_mentions() -> dict[str, list[str]]:
    """What is copyleft in the locked packages, or may be: licences, libraries, and files that mention the GPL."""
    wanted = locked(LOCK)
    found = {one.name: [one.licence] for one in packages([installed()]) if _COPYLEFT.search(one.licence)}
    found = {name: licences for name, licences in found.items() if name in wanted}
    for distribution in distributions(path=[str(installed())]):
        name = normalised(distribution.metadata["Name"])
        files = [str(file) for file in distribution.files or [] if name in wanted and _is_copyleft(distribution, file)]
        if files:
            found.setdefault(name, []).extend(files)
    return found


def _is_copyleft(distribution: Distribution, file: PackagePath) -> bool:
    if _GPL_LIBRARY.match(file.name):
        return True
    path = Path(str(distribution.locate_file(file)))
    vendored = file.name == "METADATA" and "_vendor" in file.parts
    if not (vendored or _LICENCE_FILE.search(file.name)) or file.suffix in (".py", ".pyc") or not path.is_file():
        return False
    return _GPL.search(path.read_text(errors="replace")) is not None


def not_named(page: str) -> list[str]:
    """The packages with something copyleft that the page's section on it does not name, and what it is."""
    section = _COPYLEFT_SECTION.search(page)
    named = set(re.findall(r"`([^`]+)`", section[1])) if section else set()
    return sorted(f"{name} ({mentions[0]})" for name, mentions in copyleft_mentions().items() if name not in named)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if the page is right, 1 if it is not."""
    arguments = make_parser().parse_args(argv)
    page = PAGE.read_text()
    try:
        right = with_table(page)
    except ValueError as error:
        print(f"scripts/licences: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        PAGE.write_text(right)
        page = right
    unnamed = not_named(page)
    if page != right:
        print("scripts/licences: docs/licences.md has another table: scripts/licences --write", file=sys.stderr)
    if unnamed:
        print(f"scripts/licences: docs/licences.md, Copyleft, does not name {', '.join(unnamed)}", file=sys.stderr)
    print("\n".join(rows(page).values()))
    return int(page != right or bool(unnamed))


if __name__ == "__main__":
    sys.exit(main())

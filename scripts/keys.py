"""The server's API keys from the command line: adding, listing, removing. Needs nothing but Python."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from lib.server.auth.api_keys import ROLES, ApiKey, KeyFileError, make_key
from lib.server.auth.key_file import KeyFile

DEFAULT_FILE = Path(__file__).resolve().parents[1] / "apps" / "sam_app" / "api_keys.json"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/keys",
        description="The server's API keys. Start the server with --conf api_keys FILE, and it asks for one.",
        epilog="A running server follows the file at once. Of a key only its SHA-256 digest is kept.",
    )
    where = DEFAULT_FILE.relative_to(Path(__file__).resolve().parents[1])
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help=f"where they are (default: {where})")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and print it, this once")
    add.add_argument("name", metavar="NAME", help="who or what will use it; results belong to this name")
    add.add_argument(
        "--role",
        dest="roles",
        choices=ROLES,
        action="append",
        help="MONAI Label's roles, repeatable (default: user). None includes another: user segments and reads images "
        "and labels, annotator changes them, admin reads logs, deletes, trains and sees everybody's results",
    )
    add.add_argument("--days", type=float, metavar="N", help="it expires after N days; without it never")
    commands.add_parser("list", help="each key: roles, since when, until when")
    remove = commands.add_parser("remove", help="take a key out: it ends with the next request")
    remove.add_argument("name", metavar="NAME", help="as listed")
    return parser


def list_keys(keys: tuple[ApiKey, ...]) -> None:
    """Prints one line a key."""
    now = datetime.now(UTC)
    row = "{:<24} {:<30} {:<12} {}"
    print(row.format("name", "roles", "created", "expires"))
    for key in keys:
        until = f"{key.expires:%Y-%m-%d %H:%M %Z}" if key.expires else "never"
        until += " (expired)" if key.has_expired(now) else ""
        print(row.format(key.name, ", ".join(key.roles), f"{key.created:%Y-%m-%d}", until))


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line says."""
    file = KeyFile(arguments.file)
    if arguments.command == "add":
        key, entry = make_key(arguments.name, arguments.roles or ["user"], arguments.days)
        file.add(entry)
        print(f"Key {entry.name!r} is in {file.path}. It is shown this once and kept nowhere:", file=sys.stderr)
        print(key)
    elif arguments.command == "list":
        list_keys(file.read())
    else:
        file.remove(arguments.name)
        print(f"Key {arguments.name!r} no longer holds.")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 if it was done, 1 if it could not be, 2 for a wrong call."""
    arguments = make_parser().parse_args(argv)
    try:
        run(arguments)
    except KeyFileError as error:
        print(f"scripts/keys: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

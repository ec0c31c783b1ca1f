"""The audit log from the command line: the entries that are asked for, as a table, as they are, or counted."""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path(__file__).resolve().parents[1] / "apps" / "sam_app" / "logs" / "audit.jsonl"
OUTCOMES = ("ok", "refused", "failed", "disconnected", "timeout")

Entry = dict[str, Any]


class AuditError(ValueError):
    """The log cannot be read; the message says why."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/audit",
        description="Shows the audit log, oldest entries first, with the files that were put aside.",
        epilog="Times are those of this machine unless they say otherwise: 2025-03-01, '2025-03-01 14:30', "
        "2025-03-01T13:30+00:00. Options together narrow down.",
    )
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help="the log, if --conf audit_log put it elsewhere")
    parser.add_argument("--since", type=parse_time, metavar="TIME", help="entries from then on")
    parser.add_argument("--until", type=parse_time, metavar="TIME", help="entries before then")
    parser.add_argument("--user", metavar="NAME", help="what this user did")
    parser.add_argument("--route", metavar="START", help="routes that begin so, e.g. /infer or /datastore/label")
    parser.add_argument("--timestamp", type=parse_timestamp, metavar="NUMBER", help="what concerns this result")
    parser.add_argument("--image", metavar="SHA256", help="what concerns this image; the first digits are enough")
    parser.add_argument("--outcome", choices=OUTCOMES, help="how it ended")
    parser.add_argument("--status", type=int, metavar="CODE", help="the HTTP status that was answered")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="the entries as they are in the log, one a line")
    shown.add_argument("--summary", action="store_true", help="how many there are, by user and outcome")
    return parser


def parse_time(text: str) -> datetime:
    """A time that a person wrote.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2025-03-01T14:30") from None


def parse_timestamp(text: str) -> Decimal:
    """A result's timestamp as a number: clients print ``1732288000.120000`` as ``1732288000.12``, too.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is no timestamp such as 1732288000.12") from None


def log_files(file: Path) -> list[Path]:
    """The log's files, oldest first: those that were put aside, ``audit.jsonl.1`` the newest of them, then itself.

    Raises:
        AuditError: If there is none.
    """
    aside = [path for path in file.parent.glob(f"{file.name}.*") if path.suffix[1:].isdigit()]
    files = [*sorted(aside, key=lambda path: int(path.suffix[1:]), reverse=True), *([file] if file.is_file() else [])]
    if not files:
        raise AuditError(f"there is no audit log {file}; --file names another")
    return files


def read(files: Iterable[Path]) -> Iterator[tuple[str, Entry]]:
    """Each line and its entry. A line that is no entry, as after a crash, is told on standard error.

    Raises:
        AuditError: If a file cannot be read.
    """
    for path in files:
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        entry = json.loads(line)
                        entry["time"] = datetime.fromisoformat(entry["time"].replace("Z", "+00:00"))
                    except (ValueError, TypeError, KeyError, AttributeError):
                        print(f"scripts/audit: line {number} of {path} is no entry", file=sys.stderr)
                    else:
                        yield line.rstrip("\n"), entry
        except OSError as error:
            raise AuditError(f"{path} cannot be read: {error.strerror}") from error


def is_asked_for(entry: Entry, asked: argparse.Namespace) -> bool:
    """Whether the entry passes all filters of the command line."""
    return (
        (asked.since is None or entry["time"] >= asked.since)
        and (asked.until is None or entry["time"] < asked.until)
        and (asked.user is None or entry.get("user") == asked.user)
        and (asked.route is None or (entry.get("route") or "").startswith(asked.route))
        and (asked.timestamp is None or asked.timestamp == Decimal(entry.get("timestamp") or "NaN"))
        and (asked.image is None or (entry.get("image_sha256") or "").startswith(asked.image.lower()))
        and (asked.outcome is None or entry.get("outcome") == asked.outcome)
        and (asked.status is None or entry.get("status") == asked.status)
    )


_ROW = "{:<23}  {:<16}  {:<15}  {:<6}  {:<32}  {:>6}  {:<12}  {:>9}  {:<17}  {:<12}  {:<12}  {}"
_HEAD = [
    *("time", "user", "client", "method", "route", "status", "outcome", "ms"),
    *("timestamp", "image", "model", "prompts or reason"),
]


def print_table(entries: Iterable[Entry]) -> None:
    """One line an entry, in this machine's time; long sums are cut to their first twelve digits."""
    print(_ROW.format(*_HEAD))
    for entry in entries:
        prompts = " ".join(f"{name}={count}" for name, count in (entry.get("prompts") or {}).items() if count)
        cells = (
            entry["time"].astimezone().replace(tzinfo=None).isoformat(" ", "milliseconds"),
            entry.get("user"),
            entry.get("client"),
            "(job)" if entry.get("kind") == "job" else entry.get("method"),
            entry.get("route"),
            entry.get("status"),
            entry.get("outcome"),
            entry.get("latency_ms"),
            entry.get("timestamp"),
            (entry.get("image_sha256") or "")[:12],
            entry.get("model"),
            prompts or entry.get("reason"),
        )
        print(_ROW.format(*("-" if cell in (None, "") else cell for cell in cells)).rstrip())


def print_summary(entries: Iterable[Entry]) -> None:
    """How many entries each user has, by outcome."""
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        counts[entry.get("user") or "-", str(entry.get("outcome"))] += 1
    users = sorted({user for user, _ in counts})
    row = "{:<32}" + " {:>12}" * (len(OUTCOMES) + 1)
    print(row.format("user", *OUTCOMES, "all"))
    for user in users:
        numbers = [counts[user, outcome] for outcome in OUTCOMES]
        print(row.format(user, *numbers, sum(numbers)))
    totals = [sum(counts[user, outcome] for user in users) for outcome in OUTCOMES]
    print(row.format("all", *totals, sum(totals)))


def run(asked: argparse.Namespace) -> None:
    """Prints what the command line asks for.

    Raises:
        AuditError: If the log cannot be read.
    """
    of_nobody = asked.file.with_name(f"{asked.file.stem}.nobody{asked.file.suffix}")  # who was denied and is not known
    others = read(log_files(of_nobody)) if of_nobody.is_file() else ()
    every = heapq.merge(read(log_files(asked.file)), others, key=lambda item: item[1]["time"])
    found = ((line, entry) for line, entry in every if is_asked_for(entry, asked))
    if asked.json:
        for line, _ in found:
            print(line)
    elif asked.summary:
        print_summary(entry for _, entry in found)
    else:
        print_table(entry for _, entry in found)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 1 if the log cannot be read."""
    try:
        run(make_parser().parse_args(argv))
    except AuditError as error:
        print(f"scripts/audit: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

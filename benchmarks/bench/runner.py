"""The command line of ``scripts/bench``."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from bench import report
from bench.catalogue import ROWS, UnknownRowError, chosen
from bench.machine import ROOT, machine, versions
from bench.row import NotAvailableError, Result, Row
from bench.workplace import Workplace

RESULTS = ROOT / "benchmarks" / "results"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures this server beside named peers in the same run, prints a table and writes JSON. Nothing "
        "is downloaded. Ends with 0 if all rows ran, also if a bar was missed; with 1 if a row failed.",
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", default=[], help="these rows instead of all")
    parser.add_argument("--list", action="store_true", help="list the rows, their peers and their bars, and stop")
    parser.add_argument("--quick", action="store_true", help="few repetitions, small models: whether all rows run")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write the figures (default: benchmarks/results/<date>.json)"
    )
    return parser


def run(row: Row, workplace: Workplace, clock: Callable[[], float] = time.monotonic) -> Result:
    """Measure one row; what goes wrong is part of the result."""
    started = clock()
    try:
        measurement = row.measure(workplace)
        return Result.measured(row, clock() - started, measurement, quick=workplace.quick)
    except NotAvailableError as error:
        return Result.not_available(row, clock() - started, error)
    except Exception as error:
        traceback.print_exc()
        return Result.failed(row, clock() - started, error)


def run_all(rows: Sequence[Row], *, quick: bool, json_file: Path) -> int:
    """Measure the rows one after the other; 0 if all ran, 1 if one failed."""
    started = datetime.now().astimezone()
    facts, packages = machine(), versions()
    print(report.head(facts, packages))
    if quick:
        print("a quick run: it shows whether the rows work; its figures say little, and no bar counts")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sam-bench-") as folder:
        workplace = Workplace(Path(folder), quick=quick, wanted={row.id for row in rows})
        for row in rows:
            results.append(run(row, workplace))
            gc.collect()
            print("\n" + report.shown(results[-1]), flush=True)
            # After each row, so that a run that is cut off leaves what it measured.
            content = report.document(
                results, facts, packages, started=started.isoformat(timespec="seconds"), quick=quick
            )
            report.write(json_file, content)
    print("\n" + report.summary(results))
    print(f"written to {json_file}")
    return 1 if any(result.status == "failed" for result in results) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    arguments = make_parser().parse_args(argv)
    if arguments.list:
        print(report.listing(list(ROWS.values())))
        return 0
    try:
        rows = chosen(arguments.only)
    except UnknownRowError as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 2
    # So that a SIGTERM also comes by the code that stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}{'-quick' if arguments.quick else ''}.json"
    return run_all(rows, quick=arguments.quick, json_file=arguments.json or RESULTS / name)

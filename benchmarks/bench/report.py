"""The results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Sample
from bench.row import Check, Result, Row

FORMAT = 1
"""Of the JSON file; raised when a field changes its meaning."""


def head(machine: dict[str, Any], versions: dict[str, str]) -> str:
    """What the figures hold for, in a few lines."""
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    return "\n".join(
        [
            f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['isa'])}",
            f"{machine['memory_gib']} GiB memory, {machine['gpu'] or 'no GPU'}, load average before the run: {load}",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
    )


def shown(result: Result) -> str:
    """One row's result in some lines: the figures, the bars, the notes."""
    lines = [f"{result.row.id:24s}{result.status.upper():14s} {result.row.title}  [{result.seconds:.0f} s]"]
    if result.reason:
        lines.append(f"    {result.reason}")
    measurement = result.measurement
    for side, samples in (("ours", measurement.ours), ("peer", measurement.peer)):
        lines += [f"    {side:6s}{_sample(sample)}" for sample in samples]
    if measurement.ratio:
        lines.append(f"    {'ratio':6s}{_sample(measurement.ratio)}")
    lines += [f"    {'bar':6s}{_check(check)}" for check in result.checks]
    lines += [f"    {name:42s} {value}" for name, value in measurement.table.items()]
    lines += [f"    note  {note}" for note in measurement.notes]
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """The last lines: how many of each status, and which were missed by how much."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.status] = counts.get(result.status, 0) + 1
    lines = [", ".join(f"{count} {status}" for status, count in counts.items())]
    lines += [
        f"missed: {result.row.id}: {_check(check)}"
        for result in results
        for check in result.checks
        if result.status == "missed" and not check.is_met
    ]
    return "\n".join(lines)


def document(
    results: Sequence[Result], machine: dict[str, Any], versions: dict[str, str], *, started: str, quick: bool
) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "format": FORMAT,
        "started": started,
        "quick": quick,
        "machine": machine,
        "versions": versions,
        "rows": [result.as_dict() for result in results],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write it aside, then rename it into place, so that a file is whole; folders are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _sample(sample: Sample) -> str:
    facts = sample.as_dict()
    p99 = f", p99 {_number(facts['p99'], sample.unit)}" if "p99" in facts else ""
    spread = f"{_number(facts['min'])} to {_number(facts['max'])}, n {facts['n']}"
    return f"{sample.name:50s}{_number(sample.median, sample.unit):>14s}  ({spread}{p99})"


def _check(check: Check) -> str:
    bound = ">=" if check.bar.at_least else "<="
    unit = check.bar.unit
    wanted = f"{check.bar.value} {_number(check.measured, unit)} {bound} {_number(check.bar.limit, unit)}"
    return f"{wanted}: {'met' if check.is_met else f'missed by {_number(check.missed_by, unit)}'}"


def _number(value: float, unit: str = "") -> str:
    """Three significant digits at least, no exponent, with its unit."""
    digits = 0 if abs(value) >= 100 or float(value).is_integer() else 1 if abs(value) >= 10 else 3 if value else 0
    digits = digits if abs(value) >= 0.01 or not value else 5
    return f"{value:,.{digits}f} {unit}".strip()


def listing(rows: Sequence[Row]) -> str:
    """The rows, their peers and their bars."""
    lines = []
    for row in rows:
        bars = ", ".join(
            f"{bar.value} {'>=' if bar.at_least else '<='} {_number(bar.limit, bar.unit)}" for bar in row.bars
        )
        lines += [f"{row.id:24s}{row.title}", f"{'':24s}peer: {row.peer}", f"{'':24s}bar:  {bars or 'none'}"]
    return "\n".join(lines)

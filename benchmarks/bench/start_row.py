"""The row of how long a start takes, by phase, beside the import of PyTorch, without which no model can be loaded."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from datetime import datetime

from bench.figures import Sample, pair_ratios, seconds
from bench.row import Bar, Measurement, Row
from bench.server import Server
from bench.workplace import Workplace

_STAMP = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]")
_PHASES = {
    "interpreter and imports": "Started server process",
    "MONAI Label's app": "Application startup complete",
    "model": "Loaded sam_tiny",
}
"""By name: what the log says at its end. Models load beside the start, so that phases may overlap."""

_IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S.*)")
_NAMED = 6


def start(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    ends: dict[str, list[float]] = {}
    healthy, torch = [], []
    for _ in range(workplace.times(6, 2)):
        with workplace.server("sam_tiny") as server:
            healthy.append(server.healthy_s)
            for name, second in _phase_ends(server).items():
                ends.setdefault(name, []).append(second)
        torch.append(seconds(_import_torch))
    first, *warm = healthy
    ratio = pair_ratios(warm, torch[1:])
    medians = {name: statistics.median(values[1:] or values) for name, values in ends.items()}
    medians["first healthy answer"] = statistics.median(warm)
    table, before = {}, 0.0
    for name, second in sorted(medians.items(), key=lambda item: item[1]):
        table[f"until {name}"] = f"{second:.2f} s (+ {second - before:.2f} s)"
        before = second
    return Measurement(
        ours=[Sample.of("from the command to the first healthy answer", warm, "s")],
        peer=[
            Sample.of("a Python that imports torch and ends", torch[1:], "s"),
            Sample.of("the first of these starts, which converts the model's networks", [first], "s"),
        ],
        ratio=ratio,
        values={"start": statistics.median(warm), "over-torch": ratio.median},
        table={**table, **_slowest_imports()},
    )


def _import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def _phase_ends(server: Server) -> dict[str, float]:
    """Seconds from the start to the end of each phase that the log tells of."""
    ends = {}
    for line in server.log.read_text(errors="replace").splitlines():
        stamp = _STAMP.search(line)
        if stamp is None:
            continue
        at = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        for name, said in _PHASES.items():
            if said in line and name not in ends:
                ends[name] = at - server.started_at
    return ends


def _slowest_imports() -> dict[str, str]:
    """The packages that took longest to import, what they import included, of MONAI Label's server alone."""
    command = [sys.executable, "-X", "importtime", "-c", "import monailabel.app"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken: dict[str, int] = {}
    for line in done.stderr.splitlines():
        found = _IMPORT.match(line)
        if found and "." not in found[2].strip():
            name = found[2].strip()
            taken[name] = max(taken.get(name, 0), int(found[1]))
    slowest = sorted((item for item in taken.items() if item[0] != "monailabel"), key=lambda item: -item[1])
    return {f"import {name}": f"{microseconds / 1e6:.2f} s" for name, microseconds in slowest[:_NAMED]}


ROWS = [
    Row(
        "start",
        "start of the server to the first healthy answer, sam_tiny",
        "a Python that imports torch and ends",
        [Bar("start", 4, "s"), Bar("over-torch", 3, "x")],
        start,
    )
]

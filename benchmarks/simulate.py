"""How many workers and fronts so many annotators need, and where it breaks: simulated by ``scaling/costs.json``.

Prints tables in Markdown, or draws a picture; some minutes each. The same seed gives the same figures:

    PYTHONPATH=apps/sam_app .venv/bin/python benchmarks/simulate.py --plot docs/images/scaling.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.costs import Costs, measured
from scaling.simulation import Habits, Outcome, Setup, simulate
from scaling.validation import click_loop, encode_loop, erlang_c_wait, mean_wait

FIRST_S, FURTHER_S, OPENED_S = 1.0, 0.3, 10.0
"""Goals of the 99th percentile: of the first prompt on a slice, of further clicks, and of opening a series."""
SERIES = 1_000_000
ENOUGH = 80
"""Streams of an archive that is no bottleneck."""


def lasting(seconds: float, annotators: int) -> float:
    """Seconds to simulate: more for few annotators, whose few clicks would say little of a 99th percentile."""
    return max(seconds, 20_000 / annotators)


def table(head: str, rows: Iterable[list[str]]) -> None:
    """Print a table in Markdown; the head's words have ``|`` between them."""
    print(f"\n| {head} |\n|" + " --- |" * (head.count("|") + 1))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def ms(seconds: float) -> str:
    """For people."""
    return f"{1000 * seconds:.0f} ms" if seconds < 2 else f"{seconds:.1f} s"


def cost_rows(slices: int, habits: Habits) -> Iterable[list[str]]:
    """Per model, of one series and of 1,000: processor seconds, bytes moved, bytes kept."""
    for model, facts in measured().items():
        front, clicks = facts["front"], habits.visited * (1 + habits.refining)
        wire = facts["image_bytes"] + facts["embedding_bytes"]
        yield [
            f"`{model}`",
            f"{1000 * facts['encode_cpu_s']:.0f} ms",
            f"{1000 * front['busy']['cpu_s']:.0f} ms",
            f"{facts['image_bytes'] / 1e6:.1f} + {facts['embedding_bytes'] / 1e6:.1f} MB",
            f"{facts['worker_rss_bytes'] / 1e9:.1f} GB",
            f"{habits.visited * facts['encode_cpu_s']:.1f} + {clicks * front['busy']['cpu_s']:.1f} s",
            f"{habits.visited * wire / 1e6:.0f} MB",
            f"{slices * facts['encode_cpu_s']:.0f} s",
            f"{1000 * slices * facts['disk_bytes'] / 1e12:.2f} TB",
            f"{facts['encode_cpu_s'] + front['rest']['cpu_s']:.2f} s",
        ]


def fewest(costs: Costs, setup: Setup) -> tuple[Setup, Outcome]:
    """The fewest fronts, and then workers, that reach the goals; some more than that at most.

    Raises:
        ValueError: If an encode alone takes longer than the goal, and slices are not precomputed.
    """
    if costs.encode_s > FIRST_S and not setup.precomputed:
        raise ValueError("no number of workers makes one encode faster")
    fronts, enough = max(1, math.ceil(setup.annotators / 150)), max(4, setup.annotators // 5)
    while True:
        outcome = simulate(costs, replace(setup, fronts=fronts, workers=enough))
        if outcome.quantile("further", 0.99) <= FURTHER_S and outcome.quantile("opened", 0.99) <= OPENED_S:
            break
        fronts += max(1, fronts // 8)
    workers = 1
    while True:
        found = replace(setup, fronts=fronts, workers=workers)
        outcome = simulate(costs, found)
        if outcome.quantile("first", 0.99) <= FIRST_S and outcome.quantile("further", 0.99) <= FURTHER_S:
            return found, outcome
        workers += max(1, workers // 4)


def outcome_row(name: str, costs: Costs, setup: Setup, outcome: Outcome) -> list[str]:
    """A row of what was simulated."""
    moved = sum(outcome.encodes.values()) * costs.wire_bytes * 8 / 1e9
    archive = outcome.archive_load * setup.archive_streams * setup.stream_bytes * 8 / 1e9
    return [
        name,
        f"{setup.annotators:,}",
        f"{setup.workers}",
        f"{setup.fronts}",
        f"{ms(outcome.quantile('first', 0.5))}, {ms(outcome.quantile('first', 0.99))}",
        f"{ms(outcome.quantile('further', 0.5))}, {ms(outcome.quantile('further', 0.99))}",
        f"{outcome.ahead_hits / max(1, len(outcome.first)):.0%}",
        f"{outcome.worker_load:.0%}, {outcome.front_load:.0%}",
        f"{moved:.1f}, {archive:.1f} Gbit/s",
        f"{outcome.quantile('opened', 0.99):.1f} s",
        f"{outcome.refused}",
    ]


HEAD = (
    "Case | Annotators | Workers | Fronts | First prompt p50, p99 | Click p50, p99 | Encoded before | "
    "Load of workers, fronts | To workers, from the archive | Opening p99 | 429"
)


def scenarios(seconds: float) -> Iterable[list[str]]:
    """The rows of who needs how many, and of where it breaks."""
    base = Setup(annotators=10, workers=1, fronts=1, seconds=seconds, archive_streams=ENOUGH)
    tiny = Costs.of("sam_tiny")
    for annotators in (10, 100, 1000):
        least, outcome = fewest(tiny, replace(base, annotators=annotators, seconds=lasting(seconds, annotators)))
        yield outcome_row("`sam_tiny`", tiny, least, outcome)
    for model, precomputed, counts in (("medsam2", False, (10, 100)), ("sam_vit_b", True, (10, 100, 1000))):
        costs = Costs.of(model)
        for annotators in counts:
            setup = replace(base, annotators=annotators, seconds=lasting(seconds, annotators))
            setup, outcome = fewest(costs, replace(setup, precomputed=precomputed))
            yield outcome_row(f"`{model}`" + ", precomputed" * precomputed, costs, setup, outcome)
    vit_b = Costs.of("sam_vit_b")
    setup = replace(base, annotators=10, workers=20, fronts=1, seconds=lasting(seconds, 10))
    yield outcome_row("`sam_vit_b`, not precomputed", vit_b, setup, simulate(vit_b, setup))
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("`sam_tiny`, nothing ahead", {"ahead": 0}),
        ("`sam_tiny` and a batch", {"batch": True}),
        ("`sam_tiny`, one worker more and one killed each minute", {"workers": least.workers + 1, "kill_every_s": 60}),
        ("`sam_tiny`, four times the workers", {"workers": 4 * least.workers}),
        ("`sam_tiny`, archive of 5 Gbit/s", {"archive_streams": 5}),
        ("`sam_tiny`, networks of 1 Gbit/s", {"link_bytes": 1.25e8}),
        ("`sam_tiny`, half of the fronts", {"fronts": least.fronts // 2}),
        ("`sam_tiny`, half of the workers", {"workers": least.workers // 2}),
    )
    for name, changes in cases:
        setup = replace(least, **changes)
        yield outcome_row(name, tiny, setup, simulate(tiny, setup))


def batch_rows(seconds: float) -> Iterable[list[str]]:
    """How long a million series take beside 100 annotators, and their embeddings."""
    for model in measured():
        costs = Costs.of(model)
        setup = Setup(100, 64, 3, batch=True, seconds=seconds, archive_streams=ENOUGH, precomputed=costs.encode_s > 1)
        outcome = simulate(costs, setup)
        days = SERIES * setup.habits.slices / outcome.encodes["batch"] / 86400
        yield [
            f"`{model}`",
            f"{outcome.encodes['batch']:.0f} / s",
            f"{days:,.0f} days",
            f"{SERIES * costs.series_bytes * 8 / 1e9 / days / 86400:.2f} Gbit/s",
            f"{SERIES * setup.habits.slices * costs.disk_bytes / 1e12:,.0f} TB",
            f"{SERIES * setup.habits.visited * costs.disk_bytes / 1e12:,.0f} TB",
            f"{ms(outcome.quantile('first', 0.99))}, {ms(outcome.quantile('further', 0.99))}",
        ]


def checks() -> Iterable[list[str]]:
    """Simulated beside known."""
    theory = erlang_c_wait(28, 0.1, 4)
    yield ["mean wait of M/M/4 at 70 %", ms(theory), ms(mean_wait(28, 4, lambda r: float(r.exponential(0.1)), 200_000))]
    facts, costs = measured()["sam_tiny"], Costs.of("sam_tiny")
    encodes, clicks = facts["closed_loop"], facts["front"]["busy"]
    for name, high, real, found in (
        ("encodes of 4 clients on an engine", "p90", encodes, encode_loop(encodes)),
        ("clicks of 4 clients on a server, without a pause", "p99", clicks, click_loop(costs, clicks)),
    ):
        texts = [
            f"{one['per_s']:.1f} / s, p50 {ms(one['p50_s'])}, {high} {ms(one[high + '_s'])}" for one in (real, found)
        ]
        yield [name, *texts]


def plot(path: Path, seconds: float) -> None:
    """Draw how the times grow with the annotators, for some numbers of workers and fronts."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    costs = Costs.of("sam_tiny")
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    cases = (
        (panels[0], "further", FURTHER_S, "A further click on a slice, 12 workers", [(12, 1), (12, 3), (12, 9)]),
        (panels[1], "first", FIRST_S, "The first prompt on a slice, 9 fronts", [(1, 9), (3, 9), (6, 9)]),
    )
    for axes, name, goal, title, setups in cases:
        for colour, (workers, fronts) in zip(("#b2182b", "#e08214", "#2166ac"), setups, strict=True):
            times: dict[int, float] = {}
            for annotators in (10, 20, 50, 100, 150, 200, 300, 400, 500, 700, 1000):
                time = lasting(seconds, annotators)
                setup = Setup(annotators, workers, fronts, seconds=time, archive_streams=ENOUGH)
                times[annotators] = simulate(costs, setup).quantile(name, 0.99)
                if times[annotators] > 20 * goal:
                    break
            many, what = (fronts, "front") if name == "further" else (workers, "worker")
            axes.plot(*zip(*times.items(), strict=True), "o-", color=colour, label=f"{many} {what}{'s' * (many > 1)}")
        axes.axhline(goal, color="#555555", linestyle="--", linewidth=1)
        axes.annotate(f"goal: {goal:g} s", (10, goal), (0, 4), textcoords="offset points", color="#555555")
        axes.set(title=title, xlabel="annotators at work", xscale="log", yscale="log", ylim=(0.02, 30))
        axes.set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1,000"])
        axes.set_yticks([0.03, 0.1, 0.3, 1, 3, 10, 30], ["0.03", "0.1", "0.3", "1", "3", "10", "30"])
        axes.minorticks_off()
        axes.grid(visible=True, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
    panels[0].set_ylabel("99th percentile, seconds")
    figure.suptitle("Simulated from measured times of sam_tiny: one core a worker, two cores a front for its clicks")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="How many workers and fronts so many annotators need, simulated.")
    parser.add_argument(
        "--seconds", type=float, default=80, help="simulated of each case, at least (default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, help="draw a picture into this PNG file instead")
    arguments = parser.parse_args()
    if arguments.plot:
        plot(arguments.plot, arguments.seconds)
        return
    habits = Habits()
    table("Checked | known | simulated", checks())
    table(
        "Model | Encode | Click | Wire | Worker | Series clicked: encodes + clicks | on the wire | all slices ahead | "
        "1,000 series on disk | 2D image by REST",
        cost_rows(habits.slices, habits),
    )
    table(HEAD, scenarios(arguments.seconds))
    table(
        "Model | Batch beside 100 annotators, 64 workers | a million series | from the archive | all slices on disk | "
        "10 a series | First prompt p99, click p99",
        batch_rows(arguments.seconds),
    )


if __name__ == "__main__":
    main()

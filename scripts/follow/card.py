"""The card of the network that follows objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from held_out import CREDITS
from training import fill

from .measure import Score

CARD = """# Follower

A small network that finds an object on a slice from its mask on the slice beside it (`lib/sam/volume/follow_net.py`).
It serves the tasks `..._3d` of all models but SAM 2's, which have a memory of their own.

**For:** a proposal on the slices beside a marked one, to be looked at and corrected. **Not for:** diagnosis, treatment
or any other clinical use without that; measurements.

| | |
|---|---|
| Parameters | {parameters:.2f} million, {mib:.1f} MiB in half precision (safetensors) |
| Sees | 128x128 cells around the object: this slice, the one before and the marked one, and the masks of both |
| Says | the probability of each cell, and that the object is on this slice at all |
| Licence | as the project; the images that it learned from are listed below |

## How it was made

`{command}`

{steps} steps in {minutes:.0f} minutes on {machine}. Stacks of nine slices: regions, solids, tubes and walls of random
shapes and grey values that touch, branch, move and end, some of them alike; and, for half of them, real images,
deformed from slice to slice, or neighbouring slices of one patient. From the middle one the network follows its own
masks. No abdominal CT was among the images.

{sources}

## What it reaches

On synthetic stacks that it was not trained on, Dice {synthetic} one, two, three and four slices from the marked one.

{held_out}

## Limits

Cells are a 64th of the object's size: finer details are lost far from the marked slice. Where an object touches another
of the same grey without a border, or ends without one, it guesses; slices on which it is unsure are named in the answer
(`uncertain_slices`).
"""


@dataclass(frozen=True)
class Facts:
    """What the card says.

    Attributes:
        parameters: How many.
        bytes: Size of the file.
        command: The command of the run.
        steps: Done.
        minutes: Of training.
        machine: In words.
        learned_from: Slices by set.
        synthetic: Mean Dice by name, from near to far.
        held_out: Scores by set.
    """

    parameters: int
    bytes: int
    command: str
    steps: int
    minutes: float
    machine: str
    learned_from: dict[str, int]
    synthetic: dict[str, float]
    held_out: dict[str, Score]


def write_card(path: Path, facts: Facts) -> None:
    """Write the card."""
    sources = "It learned from synthetic stacks alone."
    if facts.learned_from:
        rows = "".join(f"| {CREDITS.get(name, name)} | {count} |\n" for name, count in facts.learned_from.items())
        sources = f"| Real images | objects on slices |\n|---|---|\n{rows}"
    held_out = ""
    if facts.held_out:
        rows = "".join(
            f"| {CREDITS.get(name, name)} | {score.objects} | {score.dice:.3f} | {100 * score.reached:.0f} % |\n"
            for name, score in facts.held_out.items()
        )
        held_out = (
            "On slices of patients whom it was not trained on, followed from the true mask of the largest slice, the "
            "marked slice left out:\n\n| Set | objects | mean Dice | slices on which something was found |\n"
            f"|---|---|---|---|\n{rows}"
        )
    text = CARD.format(
        parameters=facts.parameters / 1e6,
        mib=facts.bytes / 2**20,
        command=facts.command,
        steps=facts.steps,
        minutes=facts.minutes,
        machine=facts.machine,
        synthetic=", ".join(f"{value:.3f}" for value in facts.synthetic.values()),
        sources=sources,
        held_out=held_out,
    )
    blocks = [block.strip("\n") for block in text.split("\n\n")]
    path.write_text("\n\n".join(fill(block) for block in blocks if block) + "\n")

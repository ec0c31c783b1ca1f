"""Command line of ``train_follower``."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from evaluation.cases import CaseError
from lib.sam.volume.follow_net import FollowNet
from lib.sam.volume.follower import WEIGHTS, Follower
from training import add_real

from .card import Facts, write_card
from .measure import Score, measure
from .real import RealSet, read_set
from .train import Settings, Trainer


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    defaults = Settings()
    result = argparse.ArgumentParser(
        prog="scripts/train_follower",
        description="Train the network that follows objects from slice to slice. Run it again to resume a stopped run.",
    )
    result.add_argument("--work", type=Path, required=True, help="folder for the log and the resumable state")
    add_real(result)
    result.add_argument("--steps", type=int, default=defaults.steps, help="length of the run (default: %(default)s)")
    result.add_argument("--stacks", type=int, default=defaults.stacks, help="stacks per step (default: %(default)s)")
    result.add_argument("--threads", type=int, default=2, help="CPU threads for training (default: %(default)s)")
    result.add_argument("--workers", type=int, default=1, help="processes that make stacks (default: %(default)s)")
    result.add_argument(
        "--bfloat16", action="store_true", help="compute in bfloat16: faster on CPUs with AVX-512 BF16 or AMX"
    )
    result.add_argument(
        "--output",
        type=Path,
        default=WEIGHTS,
        help="weights to write at the end, the card beside it",
    )
    result.add_argument("--finish", action="store_true", help="write weights and card of the run as it stands")
    return result


def main() -> None:
    """Train, and write the weights and their card."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings(steps=options.steps, stacks=options.stacks, bfloat16=options.bfloat16)
    try:
        sets = [read_set(folder) for folder in options.real]
    except CaseError as fault:
        raise SystemExit(str(fault)) from None
    real = [slices for each in sets for slices in each.train for _ in slices]
    trainer = Trainer(options.work, settings, real, workers=options.workers)
    if not options.finish:
        trainer.run()
    save(trainer.averaged, options.output)
    scores = scores_of(options.output, sets)
    facts = Facts(
        parameters=sum(each.numel() for each in trainer.averaged.parameters()),
        bytes=options.output.stat().st_size,
        command=command(options),
        steps=trainer.step,
        minutes=trainer.elapsed / 60,
        machine=f"{options.threads} of {os.cpu_count()} CPU cores ({platform.machine()})",
        learned_from={each.name: sum(map(len, each.train)) for each in sets},
        synthetic=trainer.measure(),
        held_out=scores,
    )
    write_card(options.output.with_suffix(".md"), facts)


def save(net: FollowNet, path: Path) -> None:
    """Write the weights in half precision; they appear whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, partial)
    partial.replace(path)


def scores_of(weights: Path, sets: list[RealSet]) -> dict[str, Score]:
    """Return how well the held-out slices of each set are followed with the weights of a file."""
    net = FollowNet()
    net.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    found = {each.name: measure(Follower(net), each.held_out) for each in sets}
    return {name: score for name, score in found.items() if score is not None}


def command(options: argparse.Namespace) -> str:
    """Return the command of the run, without what names this machine's files."""
    real = "".join(f" --real {folder.name}" for folder in options.real)
    precision = " --bfloat16" if options.bfloat16 else ""
    return f"scripts/train_follower --work WORK{real} --steps {options.steps} --stacks {options.stacks}{precision}"

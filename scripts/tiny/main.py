"""Command line of ``train_tiny``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from pathlib import Path

import torch

from evaluation.cases import CaseError
from lib.sam.models import tiny as sam_tiny
from training import add_real

from .card import plot, read_log, write_card
from .evaluate import score_pictures, score_scenes, summary
from .export import export
from .scenes import load_scenes, make_scenes
from .sources import read_pictures
from .train import Settings, Trainer
from .warm_start import blend

REPOSITORY = Path(__file__).resolve().parents[2]

HELD_OUT_SEED = 2
HELD_OUT_SCENES = 60
HELD_OUT_PICTURES = 20
"""Of each real set, at least."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="scripts/train_tiny",
        description="Train sam_tiny on synthetic and real images. Run it again to resume a stopped run.",
    )
    defaults = Settings()
    result.add_argument("--work", type=Path, required=True, help="folder for scenes, log and resumable state")
    result.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "apps" / "sam_app" / "model" / "sam_tiny.safetensors",
        help="checkpoint to write at the end; the model card goes beside it (default: the app's model)",
    )
    result.add_argument(
        "--start-from", type=Path, default=None, metavar="FILE", help="checkpoint whose weights the run begins with"
    )
    result.add_argument(
        "--blend",
        type=float,
        default=1.0,
        metavar="PART",
        help="part of the run's own weights in what is written; the rest are those of --start-from (default: 1)",
    )
    add_real(result)
    result.add_argument("--scenes", type=int, default=4000, help="training scenes (default: %(default)s)")
    result.add_argument("--workers", type=int, default=2, help="processes that make scenes (default: %(default)s)")
    result.add_argument("--threads", type=int, default=2, help="CPU threads for training (default: %(default)s)")
    result.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    result.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="compute in bfloat16: faster on GPUs and on CPUs with AVX-512 BF16 or AMX, far slower on other CPUs",
    )
    length = result.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=None, help="length of the run in training time")
    length.add_argument("--steps", type=int, default=3000, help="length of the run in steps (default: %(default)s)")
    result.add_argument("--images", type=int, default=defaults.images, help="scenes per step (default: %(default)s)")
    result.add_argument(
        "--prompts", type=int, default=defaults.prompts, help="prompts per scene (default: %(default)s)"
    )
    result.add_argument(
        "--rate", type=float, default=defaults.rate, help="highest learning rate (default: %(default)s)"
    )
    result.add_argument(
        "--seed", type=int, default=defaults.seed, help="seed of scenes and training (default: %(default)s)"
    )
    result.add_argument(
        "--check", type=int, default=defaults.check, help="steps between checkpoints (default: %(default)s)"
    )
    result.add_argument(
        "--evaluate", type=Path, default=None, metavar="FOLDER", help="also watch FOLDER/images and FOLDER/masks"
    )
    result.add_argument(
        "--results", type=Path, default=None, metavar="FILE", help="results.json of scripts/evaluate, for the card"
    )
    result.add_argument("--results-name", default="Evaluation folder", help="what was measured there, for the card")
    result.add_argument("--machine", default=None, help="the machine in words, for the card (default: found out)")
    result.add_argument("--remark", default="", help="a sentence on how the run went, for the card")
    result.add_argument("--card-only", action="store_true", help="write checkpoint and card of the run as it stands")
    return result


def main() -> None:
    """Make the scenes, train, and write checkpoint, curves and model card."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.blend < 1 and options.start_from is None:
        raise SystemExit("--blend needs --start-from, whose weights are the other part")
    if options.seed == HELD_OUT_SEED:
        raise SystemExit(f"seed {HELD_OUT_SEED} is that of the held-out scenes")
    settings = Settings(
        seed=options.seed,
        steps=options.steps,
        minutes=options.minutes,
        images=options.images,
        carried=3 * options.images // 8,
        prompts=options.prompts,
        rate=options.rate,
        check=options.check,
        bfloat16=options.bfloat16,
    )
    cache = options.work / "cache"
    size = sam_tiny.TinyConfig().img_size
    held_out = make_scenes(cache, seed=HELD_OUT_SEED, count=HELD_OUT_SCENES, size=size, workers=options.workers)
    files = make_scenes(cache, seed=options.seed, count=options.scenes, size=size, workers=options.workers)
    try:
        real = {folder.name: read_pictures(folder) for folder in options.real}
    except CaseError as fault:
        raise SystemExit(str(fault)) from None
    for name, (learned, _) in real.items():
        if not learned:
            raise SystemExit(f"all images of {name} are held out for measuring: give a folder with more of them")
    trainer = Trainer(
        options.work,
        settings,
        load_scenes(files),
        load_scenes(held_out),
        device=torch.device(options.device),
        real=real,
        evaluation=options.evaluate,
        start_from=options.start_from,
    )
    if not options.card_only:
        trainer.run()
    finish(trainer, options)


def finish(trainer: Trainer, options: argparse.Namespace) -> None:
    """Copy the averaged weights to the output, measure that very file, and write the card and the curves."""
    if options.blend < 1:
        blend(trainer.averaged, options.start_from, options.blend)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_name(options.output.name + ".partial")
    export(trainer.averaged, partial)
    partial.replace(options.output)
    model = sam_tiny.SamTiny()
    model.load_state_dict({name: as_stored(tensor) for name, tensor in trainer.averaged.state_dict().items()})
    model.eval().to(trainer.device)
    config = model.config
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "bytes": options.output.stat().st_size / 2**20,
        "img_size": config.img_size,
        "embed_dim": config.embed_dim,
        "command": command(options),
        "scenes": options.scenes,
        "seed": options.seed,
        "steps": trainer.step,
        "images": trainer.settings.images,
        "prompts": trainer.settings.prompts,
        "seen": f"{trainer.prompts_seen:,}",
        "minutes": trainer.elapsed / 60,
        "remark": options.remark,
        "learned_from": trainer.learned_from,
        "begun": beginning(options),
        "curves": options.output.with_suffix(".png").name,
        "machine": options.machine or machine(trainer.device),
    }
    held_out = summary(score_scenes(model, trainer.held_out, count=len(trainer.held_out)))
    real = {
        name: summary(score_pictures(model, pictures, most=HELD_OUT_PICTURES))
        for name, pictures in trainer.real_held_out.items()
    }
    plot(read_log(options.work / "log.jsonl"), options.output.with_suffix(".png"))
    results = json.loads(options.results.read_text())["summary"] if options.results else []
    card = options.output.with_suffix(".md")
    write_card(card, facts=facts, held_out=held_out, real=real, results=results, name=options.results_name)
    trainer.log(final=held_out)


def as_stored(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with the precision that the checkpoint keeps."""
    return tensor.half().float() if tensor.is_floating_point() else tensor


def command(options: argparse.Namespace) -> str:
    """Return the command of the run, without what names this machine's files."""
    length = f"--minutes {options.minutes:g}" if options.minutes is not None else f"--steps {options.steps}"
    begin = " --start-from EARLIER" if options.start_from else ""
    begin += f" --blend {options.blend:g}" if options.blend < 1 else ""
    precision = " --bfloat16" if options.bfloat16 else ""
    real = "".join(f" --real {folder.name}" for folder in options.real)
    size = f"--scenes {options.scenes} --images {options.images} --prompts {options.prompts} --rate {options.rate:g}"
    return f"scripts/train_tiny --work WORK{begin}{real} {size} {length}{precision}"


def beginning(options: argparse.Namespace) -> str:
    """Return what weights the run began with, in words."""
    if options.start_from is None:
        return "The run began with random weights."
    digest = hashlib.sha256(options.start_from.read_bytes()).hexdigest()
    return f"The run began with the weights of an earlier checkpoint (SHA-256 {digest})."


def machine(device: torch.device) -> str:
    """Return what the run was on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores ({platform.machine()})"

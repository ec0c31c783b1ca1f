"""How well a volume is segmented from one prompt on its middle slice, against a prompt on every slice, and how fast.

The volumes are synthetic solids of known shape, see ``bench/solids.py``: other seeds than 0 and 2, by which
the propagation's thresholds were chosen, say what to expect. The peer is the same model without propagation: every
slice is prompted by the truth, with a click at the object's centre or with a tight box. Prints Dice over the volume,
and the propagation's time by stage:

    PYTHONPATH=apps/sam_app .venv/bin/python benchmarks/volumes.py
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.solids import SolidVolume, solid_volumes
from lib.base.clock import Clock, use_clock
from lib.imaging.image import MedicalImage
from lib.sam.engine import Engine
from lib.sam.logits_grid import innermost
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.volume.propagation import PropagationOptions, VolumePrompts, propagate
from lib.transforms.masks import ResultToVolumed
from lib.transforms.window import volume_pictures

Prompter = Callable[[np.ndarray], Prompts]


def click(truth: np.ndarray) -> Prompts:
    """At the deepest pixel of the largest circle inside the object on a slice."""
    row, column = innermost(truth)
    return Prompts.from_clicks([[column, row]])


def tight_box(truth: np.ndarray) -> Prompts:
    """Around the object on a slice."""
    rows, columns = np.nonzero(truth)
    return Prompts.from_clicks(box=[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


PROMPTERS: dict[str, Prompter] = {"click": click, "box": tight_box}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two bool volumes."""
    return float(2 * np.count_nonzero(a & b) / max(1, int(np.count_nonzero(a)) + int(np.count_nonzero(b))))


def measured(
    predictor: Predictor, solid: SolidVolume, prompter: Prompter, options: PropagationOptions
) -> dict[str, Any]:
    """Both ways on one volume: Dice, and of the propagation its slices, seconds by stage and slices past the ends."""
    image = MedicalImage(frames=solid.frames)
    frame, _ = volume_pictures(image, solid.middle)
    prompts = VolumePrompts({solid.middle: prompter(solid.truth[solid.middle])}, {}, range(image.frame_count))
    with use_clock(Clock()) as clock:
        result = propagate(predictor, frame, prompts, options)
        seconds = clock.elapsed
    followed = np.asarray(ResultToVolumed()({"volume_result": result, "image": image})["pred"]) > 0

    peer = np.zeros_like(followed)
    true = np.flatnonzero(solid.truth.any(axis=(1, 2)))
    for k in true:
        truth = solid.truth[k]
        peer[k] = predictor.decode(predictor.encode(frame(int(k))), [prompter(truth)])[0].masks[0]
    return {
        "dice": dice(followed, solid.truth),
        "peer_dice": dice(peer, solid.truth),
        "slices": len(result.found),
        "true_slices": len(true),
        "past_the_ends": sum(bool(k < true[0] or k > true[-1]) for k in result.found),
        "seconds": seconds,
        "encode_seconds": clock.stages.get("encode", 0.0),
        "decode_seconds": clock.stages.get("decode", 0.0),
        "follow_seconds": clock.stages.get("follow", 0.0),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sam_tiny", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="of the volumes (default: %(default)s)")
    presence = PropagationOptions().min_presence
    parser.add_argument("--min-presence", type=float, default=presence, help="ends following (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    arguments = parser.parse_args()
    options = PropagationOptions(min_presence=arguments.min_presence)

    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.model}")
    columns = f"{'one click':>10s}{'on each':>9s}{'one box':>10s}{'on each':>9s}"
    print(f"{'Dice over the volume':28s}{columns}  slices past the ends")
    rows: list[dict[str, Any]] = []
    for solid in solid_volumes(arguments.seed):
        line = f"{solid.name:28s}"
        past = []
        for name, prompter in PROMPTERS.items():
            predictor = Engine([MODELS[arguments.model]], MODEL_FOLDER, device="cpu").predictor(arguments.model)
            row = measured(predictor, solid, prompter, options)
            rows.append({"volume": solid.name, "prompt": name, **row})
            line += f"{row['dice']:10.3f}{row['peer_dice']:9.3f}"
            past.append(str(row["past_the_ends"]))
        print(f"{line}  {', '.join(past)}", flush=True)

    def mean(key: str, prompt: str) -> float:
        return float(np.mean([row[key] for row in rows if row["prompt"] == prompt]))

    means = "".join(f"{mean('dice', name):10.3f}{mean('peer_dice', name):9.3f}" for name in PROMPTERS)
    print(f"{'mean':28s}{means}")
    slices = sum(row["slices"] for row in rows)
    total, encode, decode = (sum(row[key] for row in rows) for key in ("seconds", "encode_seconds", "decode_seconds"))
    print(
        f"propagation, {slices} slices, embeddings not in the cache: {1000 * total / slices:.0f} ms a slice "
        f"(encode {1000 * encode / slices:.0f}, decode {1000 * decode / slices:.0f}, "
        f"else {1000 * (total - encode - decode) / slices:.0f})"
    )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"model": arguments.model, "seed": arguments.seed, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()

"""How long each model takes for the first and for the next prompt on an image, in the engine.

Weights are random, which makes no difference to the time, and nothing is downloaded. Prints the machine, its load, and
for each model the least time of several images and the median of the processor time, that of all cores together, which
says something on a busy machine, too. ``--models`` measures some models alone:

    PYTHONPATH=apps/sam_app .venv/bin/python benchmarks/model_times.py --models sam_tiny,mobile_sam
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.machine import machine
from bench.workplace import Workplace
from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts

SIDE = 512
BOX = Prompts.from_clicks(box=[140, 120, 360, 330])


def prompt_seconds(predictor: Predictor, image: np.ndarray) -> list[float]:
    """Measure a prompt on an image that was not seen before, and the next one.

    Returns:
        Time and processor time of the first, then of the next.
    """
    started = time.perf_counter(), time.process_time()
    embedding = predictor.encode(image)
    predictor.decode(embedding, [BOX])
    first = time.perf_counter(), time.process_time()
    predictor.decode(embedding, [BOX])
    following = time.perf_counter(), time.process_time()
    return [first[0] - started[0], first[1] - started[1], following[0] - first[0], following[1] - first[1]]


def row(model: str, folder: Path, times: int) -> str:
    """Measure a model and return its row of the table."""
    predictor = Engine([MODELS[model]], folder, device="cpu", cache_bytes=0).predictor(model)
    images = np.random.default_rng(0).integers(0, 256, (times + 1, SIDE, SIDE, 3), dtype=np.uint8)
    measured = np.array([prompt_seconds(predictor, image) for image in images][1:])
    (first, _, following, _), (_, first_cpu, _, following_cpu) = measured.min(axis=0), np.median(measured, axis=0)
    return (
        f"| `{model}` | {first:.2f} s | {first_cpu:.2f} s | {1000 * following:.0f} ms | {1000 * following_cpu:.0f} ms "
        f"| {predictor.runtime.name} | {os.getloadavg()[0]:.1f} |"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="First and next prompt of each model on a CPU.")
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas between them")
    parser.add_argument("--times", type=int, default=5, help="images of each model (default: %(default)s)")
    arguments = parser.parse_args()
    facts = machine()
    print(f"{facts}, images of {SIDE}×{SIDE}, {arguments.times} of each model")
    print("| Model | First prompt | processor | Next prompt | processor | Runtime | Load |\n|" + " --- |" * 7)
    with tempfile.TemporaryDirectory(prefix="model-times-") as folder:
        place = Workplace(Path(folder))
        for model in arguments.models.split(","):
            print(row(model, place.model_folder(model), arguments.times), flush=True)


if __name__ == "__main__":
    main()

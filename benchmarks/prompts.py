"""How long a prompt takes in the engine, against ``segment_anything.SamPredictor`` in the same run, in turns.

The peer's first prompt is ``set_image`` and ``predict``. Its next prompt is given twice: with the image still set, as
in a notebook, and with ``set_image`` again, as by a server that keeps no embedding. Weights of ViT-B are random: they
make no difference to the time. Prints medians, spreads and ratios.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "apps" / "sam_app"))

from lib.sam.checkpoints import CheckpointStore  # noqa: E402
from lib.sam.embeddings import EmbeddingCache  # noqa: E402
from lib.sam.predictor import Predictor  # noqa: E402
from lib.sam.prompts import Prompts  # noqa: E402
from lib.sam.registry import MODELS  # noqa: E402

SIZE = (512, 512)
POINT = [[250.0, 200.0]]


def images(count: int) -> list[np.ndarray]:
    """Different ``(512, 512, 3)`` uint8 images, so that none is found in a cache."""
    return [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8) for seed in range(count)]


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def first_and_next(predictor: Predictor, image: np.ndarray) -> tuple[float, float]:
    """Seconds of a first and of a second prompt on an image, in our engine."""
    prompts = [Prompts(points=np.array(POINT), labels=np.array([1]))]

    def prompt() -> None:
        predictor.decode(predictor.encode(image), prompts, multimask=True)

    return seconds(prompt), seconds(prompt)


def peer_first_and_next(peer: SamPredictor, image: np.ndarray) -> tuple[float, float]:
    """The same of the peer."""

    def predict() -> None:
        peer.predict(np.array(POINT), np.array([1]))

    def first() -> None:
        peer.set_image(image)
        predict()

    return seconds(first), seconds(predict)


def shown(values: list[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = (1000 * value for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:9.1f} ms  ({low:.1f} to {high:.1f})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="images for ViT-B (default: %(default)s)")
    parser.add_argument("--tiny-rounds", type=int, default=15, help="images for sam_tiny (default: %(default)s)")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    module = MODELS["sam_vit_b"].build().eval()
    vit_b = Predictor(MODELS["sam_vit_b"], module, checkpoint_sha256="random", cache=EmbeddingCache(1 << 30))
    peer = SamPredictor(module)
    tiny_module = MODELS["sam_tiny"].build()
    sha256 = CheckpointStore().load_into(tiny_module, MODELS["sam_tiny"])
    tiny = Predictor(MODELS["sam_tiny"], tiny_module, checkpoint_sha256=sha256, cache=EmbeddingCache(1 << 30))

    warm_up = images(1)[0]
    first_and_next(vit_b, warm_up), peer_first_and_next(peer, warm_up), first_and_next(tiny, warm_up)
    ours, peers = [], []
    for image in images(arguments.rounds + 1)[1:]:
        ours.append(first_and_next(vit_b, image))
        peers.append(peer_first_and_next(peer, image))
    tinys = [first_and_next(tiny, image) for image in images(arguments.tiny_rounds + 1)[1:]]

    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, image {SIZE}")
    columns = {
        "sam_vit_b, first prompt": [pair[0] for pair in ours],
        "sam_vit_b, next prompt": [pair[1] for pair in ours],
        "SamPredictor, first prompt": [pair[0] for pair in peers],
        "SamPredictor, next prompt, image kept": [pair[1] for pair in peers],
        "sam_tiny, first prompt": [pair[0] for pair in tinys],
        "sam_tiny, next prompt": [pair[1] for pair in tinys],
    }
    for name, values in columns.items():
        print(f"{name:40s}{shown(values)}")

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(columns[a], columns[b], strict=True))

    peer_first = "SamPredictor, first prompt"
    print("ratios to the peer, median of pairs:")
    print(f"  first prompt                       {ratio('sam_vit_b, first prompt', peer_first):.3f}")
    print(
        f"  next prompt, peer keeps the image  "
        f"{ratio('sam_vit_b, next prompt', 'SamPredictor, next prompt, image kept'):.3f}"
    )
    print(f"  next prompt, peer encodes again    {ratio('sam_vit_b, next prompt', peer_first):.4f}")


if __name__ == "__main__":
    main()

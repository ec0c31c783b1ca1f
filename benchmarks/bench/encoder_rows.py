"""Rows that run the engine in this process: the first prompt on an image, and the encoder against the machine."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry

from bench.figures import Sample, pair_ratios, seconds
from bench.flops import SQUARE, VIT_B, MatrixMultiply, encoder_flop
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.workplace import Workplace, pictures
from lib.sam.engine import Engine
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.registry import MODELS

MODEL = "sam_vit_b"
POINT = [[250.0, 200.0]]


def default_predictor(model_folder: Path) -> Predictor:
    """The engine's predictor as the server makes it on a machine without a GPU."""
    return Engine([MODELS[MODEL]], model_folder, device="cpu").predictor(MODEL)


def int8_predictor(model_folder: Path) -> Predictor:
    """The same with the encoder in eight bits.

    Raises:
        NotAvailableError: If the engine knows no such precision.
    """
    try:
        engine = Engine([MODELS[MODEL]], model_folder, device="cpu", precision="int8")  # type: ignore[call-arg]
    except TypeError as error:
        raise NotAvailableError("the engine has no int8") from error
    return engine.predictor(MODEL)


def _first_prompts(workplace: Workplace, predictor: Predictor, name: str) -> Measurement:
    """First prompts on new images, ours and the peer's in turns."""
    peer = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(workplace.checkpoint(MODEL))).eval())
    prompts = [Prompts.from_clicks(POINT)]

    def our_prompt(image: np.ndarray) -> None:
        predictor.decode(predictor.encode(image), prompts, multimask=True)

    def peer_prompt(image: np.ndarray) -> None:
        peer.set_image(image)
        peer.predict(np.array(POINT), np.array([1]))

    warm_up, *images = pictures(1 + workplace.times(3, 1), seed=1)
    if not workplace.quick:
        our_prompt(warm_up)
        peer_prompt(warm_up)
    ours, peers = [], []
    for image in images:
        ours.append(seconds(lambda image=image: our_prompt(image)))  # type: ignore[misc]
        peers.append(seconds(lambda image=image: peer_prompt(image)))  # type: ignore[misc]
    ratio = pair_ratios(ours, peers)
    return Measurement(
        ours=[Sample.of(name, ours, "s")],
        peer=[Sample.of("SamPredictor, PyTorch fp32", peers, "s")],
        ratio=ratio,
        values={"ratio": ratio.median},
        notes=["quick run: nothing was warmed up"] if workplace.quick else [],
    )


def first_prompt(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    predictor = default_predictor(workplace.model_folder(MODEL))
    return _first_prompts(workplace, predictor, "our engine, as by default")


def first_prompt_int8(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    return _first_prompts(workplace, int8_predictor(workplace.model_folder(MODEL)), "our engine, int8")


def encoder_machine(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    predictor = default_predictor(workplace.model_folder(MODEL))
    multiply = MatrixMultiply({"the encoder's shapes": VIT_B.products, "2048³": SQUARE})
    flop = encoder_flop(VIT_B)
    warm_up, *images = pictures(1 + workplace.times(3, 1), seed=2)
    if not workplace.quick:
        predictor.encode(warm_up)
    encodes, ideals = [], []
    rates: dict[str, list[float]] = {}
    for image in images:
        now = multiply.rates()
        for name, rate in now.items():
            rates.setdefault(name, []).append(rate)
        ideals.append(flop / max(now.values()))
        encodes.append(seconds(lambda image=image: predictor.encode(image)))  # type: ignore[misc]
    ratio = pair_ratios(encodes, ideals, "encode / ideal")
    return Measurement(
        ours=[Sample.of("encode, fp32", encodes, "s")],
        peer=[Sample.of("ideal: FLOP / the fastest FLOP/s of the round", ideals, "s")],
        ratio=ratio,
        values={"ratio": ratio.median},
        table={
            "arithmetic of the encoder": f"{flop / 1e9:.0f} GFLOP",
            **{name: f"{statistics.median(values) / 1e9:.0f} GFLOP/s" for name, values in rates.items()},
            "threads": str(torch.get_num_threads()),
        },
    )


ROWS = [
    Row(
        "first-prompt",
        "first prompt on a new 512x512 image, sam_vit_b, fp32",
        "segment_anything.SamPredictor, set_image and predict, PyTorch fp32",
        [Bar("ratio", 0.35, "x")],
        first_prompt,
    ),
    Row(
        "first-prompt-int8",
        "the same with the encoder in int8",
        "segment_anything.SamPredictor, set_image and predict, PyTorch fp32",
        [Bar("ratio", 0.24, "x")],
        first_prompt_int8,
    ),
    Row(
        "encoder-machine",
        "encode of sam_vit_b, fp32, over what this machine's matrix multiplication would need for its arithmetic",
        "float32 matrix multiplication by torch and NumPy, the fastest of both",
        [Bar("ratio", 1.6, "x")],
        encoder_machine,
    ),
]

"""Rows that run the engine in this process: the first prompt on an image, and the encoder against the machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry

from bench.figures import Sample, pair_ratios, seconds
from bench.flops import SQUARE, VIT_B, MatrixMultiply, encoder_flop
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.workplace import Workplace, pictures
from lib.sam.engine import Engine
from lib.sam.int8 import make_int8
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_ir import NetworkKey, find_networks

MODEL = "sam_vit_b"
POINT = [[250.0, 200.0]]


def default_predictor(model_folder: Path) -> Predictor:
    """The engine's predictor as the server makes it on a machine without a GPU."""
    return Engine([MODELS[MODEL]], model_folder, device="cpu").predictor(MODEL)


def int8_predictor(model_folder: Path) -> Predictor:
    """The same with the encoder in eight bits, calibrated on images like those of the row.

    Raises:
        NotAvailableError: If OpenVINO, which runs it, cannot be used here.
    """
    sha256 = CheckpointStore(model_folder).verified(MODELS[MODEL]).sha256
    float32 = default_predictor(model_folder)
    networks = find_networks(model_folder, NetworkKey.of(MODELS[MODEL], sha256))
    if networks is None:
        raise NotAvailableError("OpenVINO cannot be used here")
    images = list(pictures(4, seed=3))
    key = NetworkKey.of(MODELS[MODEL], sha256, "int8")
    # Masks of random weights say nothing of those of trained ones, so that none is too different here.
    make_int8(float32, networks, model_folder, key, images[:2], images[2:3], min_iou=0)
    return Engine([MODELS[MODEL]], model_folder, device="cpu", precision="int8").predictor(MODEL)


_PREDICTORS: dict[str, Callable[[Path], Predictor]] = {
    "first-prompt": default_predictor,
    "first-prompt-int8": int8_predictor,
}
"""By the id of the row that measures it."""


@dataclass(frozen=True)
class FirstPrompts:
    """Seconds of first prompts on new images, all contenders in turns.

    Args:
        ours: By row.
        peer: Of the peer.
        errors: Why a row has no predictor.
    """

    ours: dict[str, list[float]]
    peer: list[float]
    errors: dict[str, Exception]


def _first_prompts(workplace: Workplace) -> FirstPrompts:
    """Of each row that is wanted, and of the peer, which is slow: it is measured once for both."""
    folder = workplace.model_folder(MODEL)
    predictors: dict[str, Predictor] = {}
    errors: dict[str, Exception] = {}
    for id, make in _PREDICTORS.items():
        if id in workplace.wanted:
            try:
                predictors[id] = make(folder)
            except Exception as error:  # the other row is measured all the same
                errors[id] = error
    if not predictors:
        return FirstPrompts({}, [], errors)
    peer = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(workplace.checkpoint(MODEL))).eval())
    prompts = [Prompts.from_clicks(POINT)]

    def our_prompt(predictor: Predictor, image: np.ndarray) -> None:
        predictor.decode(predictor.encode(image), prompts, multimask=True)

    def peer_prompt(image: np.ndarray) -> None:
        peer.set_image(image)
        peer.predict(np.array(POINT), np.array([1]))

    result = FirstPrompts({id: [] for id in predictors}, [], errors)
    warm_up, *images = pictures(1 + workplace.times(3, 1), seed=1)
    if not workplace.quick:
        for predictor in predictors.values():
            our_prompt(predictor, warm_up)
        peer_prompt(warm_up)
    for image in images:
        for id, predictor in predictors.items():
            result.ours[id].append(seconds(partial(our_prompt, predictor, image)))
        result.peer.append(seconds(partial(peer_prompt, image)))
    return result


def _first_prompt(workplace: Workplace, id: str) -> Measurement:
    """What one of the rows has of :func:`_first_prompts`."""
    measured = workplace.once("first prompts", lambda: _first_prompts(workplace))
    if id in measured.errors:
        raise measured.errors[id]
    ratio = pair_ratios(measured.ours[id], measured.peer)
    return Measurement(
        ours=[Sample.of("our engine", measured.ours[id], "s")],
        peer=[Sample.of("SamPredictor, PyTorch fp32", measured.peer, "s")],
        ratio=ratio,
        values={"ratio": ratio.median},
        notes=["quick run: nothing was warmed up"] if workplace.quick else [],
    )


def first_prompt(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    return _first_prompt(workplace, "first-prompt")


def first_prompt_int8(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    return _first_prompt(workplace, "first-prompt-int8")


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
        encodes.append(seconds(partial(predictor.encode, image)))
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

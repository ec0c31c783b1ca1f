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
from lib.sam.runtimes.openvino_ir import NetworkKey, find_networks, has_bfloat16

MODEL = "sam_vit_b"
POINT = [[250.0, 200.0]]


def float32_predictor(model_folder: Path) -> Predictor:
    """The engine's predictor as the server makes it on a CPU without bfloat16."""
    return Engine([MODELS[MODEL]], model_folder, device="cpu", precision="float32").predictor(MODEL)


def bfloat16_predictor(model_folder: Path) -> Predictor:
    """The same in bfloat16; asked for, as masks of random weights say nothing of those of trained ones.

    Raises:
        NotAvailableError: If this CPU does not multiply bfloat16.
    """
    if not has_bfloat16():
        raise NotAvailableError("this CPU has neither AVX512_BF16 nor AMX")
    return Engine([MODELS[MODEL]], model_folder, device="cpu", precision="bfloat16").predictor(MODEL)


def int8_predictor(model_folder: Path) -> Predictor:
    """The same with the encoder in eight bits, calibrated on images like those of the row.

    Raises:
        NotAvailableError: If OpenVINO, which runs it, cannot be used here.
    """
    sha256 = CheckpointStore(model_folder).verified(MODELS[MODEL]).sha256
    float32 = float32_predictor(model_folder)
    networks = find_networks(model_folder, NetworkKey.of(MODELS[MODEL], sha256))
    if networks is None:
        raise NotAvailableError("OpenVINO cannot be used here")
    images = list(pictures(4, seed=3))
    key = NetworkKey.of(MODELS[MODEL], sha256, "int8")
    # Masks of random weights say nothing of those of trained ones, so that none is too different here.
    make_int8(float32, networks, model_folder, key, images[:2], images[2:3], min_iou=0)
    return Engine([MODELS[MODEL]], model_folder, device="cpu", precision="int8").predictor(MODEL)


_PREDICTORS: dict[str, Callable[[Path], Predictor]] = {
    "first-prompt": float32_predictor,
    "first-prompt-bfloat16": bfloat16_predictor,
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


def first_prompt_bfloat16(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    return _first_prompt(workplace, "first-prompt-bfloat16")


def first_prompt_int8(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    return _first_prompt(workplace, "first-prompt-int8")


def next_prompt(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    folder = workplace.model_folder(MODEL)
    predictors = {"our engine, fp32": float32_predictor(folder)}
    if has_bfloat16():
        predictors["our engine, bfloat16"] = bfloat16_predictor(folder)
    peer = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(workplace.checkpoint(MODEL))).eval())
    [image] = pictures(1, seed=4)
    peer.set_image(image)
    embeddings = {name: predictor.encode(image) for name, predictor in predictors.items()}
    prompts = [Prompts.from_clicks(POINT)]
    taken: dict[str, list[float]] = {name: [] for name in predictors}
    theirs: list[float] = []
    for number in range(workplace.times(30, 3) + 2):
        turn = {
            name: seconds(partial(predictor.decode, embeddings[name], prompts, multimask=True))
            for name, predictor in predictors.items()
        }
        its = seconds(lambda: peer.predict(np.array(POINT), np.array([1])))
        if number >= 2:  # all are warm
            theirs.append(1000 * its)
            for name, value in turn.items():
                taken[name].append(1000 * value)
    ours = [Sample.of(name, values, "ms") for name, values in taken.items()]
    return Measurement(
        ours=ours,
        peer=[Sample.of("SamPredictor.predict, PyTorch fp32", theirs, "ms")],
        ratio=pair_ratios(taken["our engine, fp32"], theirs),
        values={"p50": min(sample.median for sample in ours)},
    )


def encoder_machine(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    predictor = float32_predictor(workplace.model_folder(MODEL))
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
        "first-prompt-bfloat16",
        "the same in bfloat16, on a CPU that has it",
        "segment_anything.SamPredictor, set_image and predict, PyTorch fp32",
        [Bar("ratio", 0.2, "x")],
        first_prompt_bfloat16,
    ),
    Row(
        "first-prompt-int8",
        "the same with the encoder in int8",
        "segment_anything.SamPredictor, set_image and predict, PyTorch fp32",
        [Bar("ratio", 0.24, "x")],
        first_prompt_int8,
    ),
    Row(
        "next-prompt",
        "another prompt on an encoded image in the engine, sam_vit_b: decode, and masks at the image's size",
        "segment_anything.SamPredictor, predict, PyTorch fp32",
        [Bar("p50", 30, "ms")],
        next_prompt,
    ),
    Row(
        "encoder-machine",
        "encode of sam_vit_b, fp32, over what this machine's matrix multiplication would need for its arithmetic",
        "float32 matrix multiplication by torch and NumPy, the fastest of both",
        [Bar("ratio", 1.6, "x")],
        encoder_machine,
    ),
]

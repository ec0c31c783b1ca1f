"""The rows of SAM 2: an image, and a slice of a volume that an object is followed to, beside Meta's own predictors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from bench.figures import Sample, pair_ratios
from bench.row import Bar, Measurement, Row
from bench.workplace import Workplace, pictures
from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_ir import has_bfloat16
from lib.sam.runtimes.runtime import Precision
from lib.sam.sam2_predictor import Sam2Predictor
from lib.sam.volume.propagation import VolumePrompts
from lib.sam.volume.sam2_video import propagate_by_memory

BOX = Prompts.from_clicks(box=[140, 120, 360, 330])

_FULL_MEMORY = 7
"""So many slices later, a slice uses the memory of as many others as it ever does."""


@dataclass
class Times:
    """Seconds of one contender, turn by turn.

    Args:
        wall: By the clock.
        processor: Of all cores together, which says something on a busy machine, too.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Measure what is done within it."""
        began = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - began[0])
        self.processor.append(time.process_time() - began[1])


def our_predictor(workplace: Workplace, model: str) -> Sam2Predictor:
    """The engine's, in bfloat16 where the CPU has it; asked for, as masks of random weights say nothing of it."""
    precision: Precision = "bfloat16" if has_bfloat16() else "float32"
    engine = Engine([MODELS[model]], workplace.model_folder(model), device="cpu", precision=precision)
    return cast("Sam2Predictor", engine.predictor(model))


@contextmanager
def meta_configuration() -> Iterator[None]:
    """Within it, ``sam2`` finds its configurations, whatever was imported before."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        yield


def meta_model(workplace: Workplace, model: str, build: str) -> Any:
    """Meta's own module with the same weights.

    Args:
        workplace: Has the weights.
        model: The name of one of 1024×1024, or ``medsam2``.
        build: The function of ``sam2.build_sam`` that builds it.
    """
    from sam2 import build_sam

    spec = MODELS[model]
    sides = {"model.image_size": spec.input_size, **dict.fromkeys(_FEATURE_SIZES, f"[{_places(spec.input_size)}]")}
    changed = [f"++{name}={value}" for name, value in sides.items()] if spec.input_size else []
    with meta_configuration():
        module = getattr(build_sam, build)(
            f"configs/sam2.1/{spec.architecture}.yaml", device="cpu", hydra_overrides_extra=changed
        )
    module.load_state_dict(torch.load(workplace.checkpoint(model), weights_only=True))
    return module


_FEATURE_SIZES = [f"model.memory_attention.layer.{kind}_attention.feat_sizes" for kind in ("self", "cross")]


def _places(input_size: int | None) -> str:
    side = (input_size or 1024) // 16
    return f"{side},{side}"


def sam2_image(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    model = _model(workplace)
    ours = our_predictor(workplace, model)
    peer = SAM2ImagePredictor(meta_model(workplace, model, "build_sam2"))
    side = (MODELS[model].input_size or 1024) // 4
    peer._bb_feat_sizes = [(side, side), (side // 2, side // 2), (side // 4, side // 4)]  # has those of 1024 built in

    mine, its = Times(), Times()
    for image in pictures(1 + workplace.times(3, 1), seed=5):
        with mine.turn():
            ours.decode(ours.encode(image), [BOX])
        with its.turn():
            peer.set_image(image)
            peer.predict(box=BOX.box, multimask_output=False)
    return _measurement(ours, mine, its, 1, "SAM2ImagePredictor, set_image and predict, PyTorch fp32")


def sam2_slice(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    model = _model(workplace)
    ours = our_predictor(workplace, model)
    peer = meta_model(workplace, model, "build_sam2_video_predictor")
    slices = list(pictures(1 + _FULL_MEMORY + workplace.times(2, 1), seed=6))
    folder = workplace.folder / "sam2-slices"
    folder.mkdir()
    for k, image in enumerate(slices):
        Image.fromarray(image).save(folder / f"{k}.jpg", quality=95)
    state = peer.init_state(str(folder))
    peer.add_new_points_or_box(state, 0, obj_id=1, box=BOX.box)
    its_slices = peer.propagate_in_video(state)
    next(its_slices)  # the marked one
    mine, theirs = Times(), Times()

    def in_turn() -> Iterator[np.ndarray]:
        """Slice by slice, what we are given; each time, the peer goes first."""
        yield slices[0]
        for image in slices[1:]:
            with theirs.turn():
                next(its_slices)
            with mine.turn():
                yield image

    turns = in_turn()
    propagate_by_memory(ours, lambda k: next(turns), VolumePrompts({0: BOX}, {}, range(len(slices))))
    next(turns, None)  # the end of our last slice
    first = 0 if workplace.quick else _FULL_MEMORY - 1
    return _measurement(ours, mine, theirs, first, "SAM2VideoPredictor.propagate_in_video, a slice, PyTorch fp32")


def _model(workplace: Workplace) -> str:
    return "medsam2" if workplace.quick else "sam2_hiera_tiny"


def _measurement(ours: Predictor, mine: Times, its: Times, first: int, peer: str) -> Measurement:
    """What is said of the turns from the first on that counts."""
    ratio = pair_ratios(mine.wall[first:], its.wall[first:])
    processor = pair_ratios(mine.processor[first:], its.processor[first:])
    return Measurement(
        ours=[Sample.of(f"our engine, {ours.runtime.name}", mine.wall[first:], "s")],
        peer=[Sample.of(peer, its.wall[first:], "s")],
        ratio=ratio,
        values={"ratio": ratio.median},
        table={"ratio of processor time, which other work changes less": f"{processor.median:.3f} x"},
    )


ROWS = [
    Row(
        "sam2-image",
        "first prompt on a new 512x512 image, sam2_hiera_tiny, in bfloat16 on a CPU that has it",
        "sam2's SAM2ImagePredictor, set_image and predict, PyTorch fp32",
        [Bar("ratio", 0.5, "x")],
        sam2_image,
    ),
    Row(
        "sam2-slice",
        "a slice that an object is followed to through a volume, sam2_hiera_tiny, with all of its memory",
        "sam2's SAM2VideoPredictor, PyTorch fp32",
        [Bar("ratio", 0.5, "x")],
        sam2_slice,
    ),
]

"""The row of a machine with an NVIDIA GPU: encoding by ViT-B and ViT-H."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from segment_anything import sam_model_registry

from bench.figures import Sample
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.workplace import Workplace, pictures
from lib.sam.runtimes.choice import torch_precision
from lib.sam.runtimes.torch_runtime import TorchRuntime

Encoder = Callable[[torch.Tensor], torch.Tensor]
"""``(B, 3, 1024, 1024)`` float32 on the GPU to ``(B, 256, 64, 64)`` float32."""

_BATCHES = (1, 8)
_POINTS = [[500.0, 400.0], [300.0, 600.0], [700.0, 700.0]]


def our_encoder(sam: Any) -> Encoder:
    """The encoder as the engine runs it on a GPU: attention fused, in the precision that suits the GPU."""
    device = torch.device("cuda")
    runtime = TorchRuntime(deepcopy(sam.image_encoder), None, device, torch_precision(device))
    return lambda images: runtime.encode(images)[0]


def bf16_autocast(sam: Any) -> Encoder:
    """The peer's encoder under PyTorch's own bfloat16 autocast."""

    def encode(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            features: torch.Tensor = sam.image_encoder(images)
        return features.float()

    return encode


def encode_on_gpu(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    if not torch.cuda.is_available():
        raise NotAvailableError("no GPU on this machine")
    ours, peers, table = [], [], {}
    values: dict[str, float] = {}
    for name, batch in ((name, batch) for name in ("vit_b", "vit_h") for batch in _BATCHES):
        torch.manual_seed(0)
        sam = sam_model_registry[name]().eval().cuda().requires_grad_(False)
        images = _inputs(sam, batch)
        encoders = {
            "ours": our_encoder(sam),
            "segment_anything, fp32": sam.image_encoder,
            "segment_anything, bf16 autocast": bf16_autocast(sam),
        }
        taken = _in_turns(encoders, images, workplace.times(10, 3))
        iou = _mask_iou(sam, encoders["ours"](images), sam.image_encoder(images))
        case = f"{name}, batch {batch}"
        mine, fp32, bf16 = (Sample.of(f"{case}: {which}", milliseconds) for which, milliseconds in taken.items())
        ours.append(mine)
        peers += [fp32, bf16]
        speed_up = statistics.median(b / a for a, b in zip(mine.values, fp32.values, strict=True))
        table[case] = (
            f"{speed_up:.2f} x fp32, {bf16.median / mine.median:.2f} x bf16, "
            f"{1000 * batch / mine.median:.1f} images/s, mask IoU {iou:.4f}"
        )
        if name == "vit_h":
            values["speed-up of ViT-H"] = min(values.get("speed-up of ViT-H", np.inf), speed_up)
            values["mask IoU of ViT-H"] = min(values.get("mask IoU of ViT-H", np.inf), iou)
        del sam, encoders, images
        torch.cuda.empty_cache()
    notes = [torch.cuda.get_device_name(0)]
    return Measurement(ours=ours, peer=peers, values=values, table=table, notes=notes)


def _inputs(sam: Any, batch: int) -> torch.Tensor:
    """Images as SAM's encoder takes them."""
    images = np.stack(list(pictures(batch, seed=15)))
    tensor = torch.as_tensor(images).permute(0, 3, 1, 2).float().cuda()
    enlarged = torch.nn.functional.interpolate(tensor, (1024, 1024), mode="bilinear")
    return (enlarged - sam.pixel_mean) / sam.pixel_std


@torch.inference_mode()
def _in_turns(encoders: dict[str, Encoder], images: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each encoder in each round, after two rounds that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(rounds + 2):
        for name, encode in encoders.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            encode(images)
            torch.cuda.synchronize()
            if number >= 2:
                taken[name].append(1000 * (time.perf_counter() - started))
    return taken


@torch.inference_mode()
def _mask_iou(sam: Any, features: torch.Tensor, true_features: torch.Tensor) -> float:
    """The mean IoU of the masks that SAM's decoder gives for the same points on both embeddings."""
    ious = []
    for ours, true in zip(features, true_features, strict=True):
        for point in _POINTS:
            points = torch.tensor([[point]], device="cuda"), torch.ones((1, 1), dtype=torch.int, device="cuda")
            sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
            masks = [
                sam.mask_decoder(
                    image_embeddings=embedding[None],
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )[0]
                > 0
                for embedding in (ours, true)
            ]
            both, either = (masks[0] & masks[1]).sum().item(), (masks[0] | masks[1]).sum().item()
            ious.append(both / either if either else 1.0)
    return float(np.mean(ious))


ROWS = [
    Row(
        "gpu",
        "encode by ViT-B and ViT-H on the GPU, batches of 1 and 8",
        "segment_anything's encoder, fp32 eager and bf16 autocast",
        [
            Bar("speed-up of ViT-H", 4, "x", at_least=True),
            Bar("mask IoU of ViT-H", 0.99, "", at_least=True),
        ],
        encode_on_gpu,
    )
]

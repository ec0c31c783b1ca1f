"""The training loop of ``sam_tiny``: resumable, on CPU or CUDA.

Each step encodes a few scenes once and decodes several prompts for each. Some scenes of a step are those of the
step before, with a corrective click on each answer and the answer as mask prompt.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.learning.loss import total_loss
from lib.sam.models import tiny as sam_tiny
from training import learning_rate, move_average

from .batches import Batch, draw_batch, next_round
from .evaluate import score_folder, score_pictures, score_scenes, summary
from .export import export
from .scenes import Scenes
from .sources import Picture, RealSource, Source, SyntheticSource
from .warm_start import warm_start

CLIP_NORM = 1.0
REAL_SHARE = 0.5
"""Of the images, those that are real; each set has the same part of them."""

CHECK_PICTURES = 12
"""Held-out pictures of each real set in an evaluation during the run."""


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    Attributes:
        seed: Seed of the weights, the batches and the augmentation.
        steps: Length of the run if `minutes` is None.
        minutes: Length of the run in training time; the learning rate then follows the clock.
        images: Scenes per step, including the carried ones.
        carried: Scenes per step that get a second round.
        prompts: Objects per scene.
        rate: Highest learning rate.
        decay: Weight decay.
        average: Decay of the averaged weights per step.
        report: Steps between lines of the log.
        check: Steps between checkpoints and evaluations.
        check_scenes: Held-out scenes per evaluation.
        bfloat16: Compute in bfloat16 where PyTorch's autocast does. Faster on GPUs and on CPUs with AVX-512 BF16 or
            AMX; several times slower on other CPUs.
    """

    seed: int = 1
    steps: int = 100_000
    minutes: float | None = None
    images: int = 6
    carried: int = 2
    prompts: int = 4
    rate: float = 1.0e-3
    decay: float = 0.03
    average: float = 0.99
    report: int = 20
    check: int = 250
    check_scenes: int = 30
    bfloat16: bool = False


class Trainer:
    """A run: the model, its averaged copy, the optimizer, and all that is needed to go on after a stop.

    Files in the run's folder: `state.pt` (to resume), `log.jsonl`, `sam_tiny.safetensors` (averaged weights).
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        scenes: Scenes,
        held_out: Scenes,
        *,
        device: torch.device,
        real: Mapping[str, tuple[list[Picture], list[Picture]]] | None = None,
        evaluation: Path | None = None,
        config: sam_tiny.TinyConfig | None = None,
        start_from: Path | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.folder, self.settings, self.held_out = folder, settings, held_out
        self.device, self.evaluation = device, evaluation
        self.model = sam_tiny.SamTiny(config)
        self.learned_from = {name: len(pictures) for name, (pictures, _) in (real or {}).items()}
        self.real_held_out = {name: others for name, (_, others) in (real or {}).items() if others}
        learned = [RealSource(pictures, self.model.img_size) for pictures, _ in (real or {}).values()]
        self.sources: list[Source] = [SyntheticSource(scenes), *learned]
        part = REAL_SHARE / len(learned) if learned else 0.0
        self.shares = [1 - part * len(learned), *[part] * len(learned)]
        if start_from is not None:
            warm_start(self.model, start_from)
        self.model = self.model.to(device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.rng = np.random.default_rng(settings.seed)
        self.carried: Batch | None = None
        self.step = 0
        self.elapsed = 0.0
        self.prompts_seen = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self.resume()

    def resume(self) -> None:
        """Continue from `state.pt`."""
        state = torch.load(self.folder / "state.pt", map_location="cpu", weights_only=False)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        self.carried = Batch(**state["carried"]) if state["carried"] else None
        self.step, self.elapsed, self.prompts_seen = state["step"], state["elapsed"], state["prompts_seen"]

    def save(self) -> None:
        """Write `state.pt` and the averaged weights; both appear whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "carried": self.carried.tensors() if self.carried else None,
            "step": self.step,
            "elapsed": self.elapsed,
            "prompts_seen": self.prompts_seen,
            "settings": asdict(self.settings),
        }
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")
        export(self.averaged, self.folder / "sam_tiny.safetensors")

    def log(self, **values: object) -> None:
        """Append one line to the log, and print it."""
        line = json.dumps(
            {"step": self.step, "seconds": round(self.elapsed, 1), "prompts": self.prompts_seen, **values}
        )
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    @property
    def progress(self) -> float:
        """Part of the run that is done, 0 to 1."""
        if self.settings.minutes is not None:
            return min(self.elapsed / (60 * self.settings.minutes), 1.0)
        return min(self.step / self.settings.steps, 1.0)

    def next_batch(self) -> Batch:
        """Return new scenes and the ones that are carried over."""
        settings = self.settings
        fresh = settings.images - (len(self.carried.images) if self.carried else 0)
        mean, std = float(self.model.pixel_mean[0]), float(self.model.pixel_std[0])
        batch = draw_batch(
            self.rng, self.sources, self.shares, images=fresh, prompts=settings.prompts, mean=mean, std=std
        )
        return Batch.join([batch, self.carried]) if self.carried else batch

    def train_step(self) -> dict[str, float]:
        """Do one step and return the parts of its loss."""
        settings = self.settings
        batch = self.next_batch()
        moved = batch.to(self.device)
        rate = learning_rate(settings.rate, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bfloat16):
            masks, quality = self.predict(moved)
        loss, parts = total_loss(masks, quality, moved.targets.flatten(0, 1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        if torch.isfinite(norm):
            self.optimizer.step()
            move_average(self.averaged, self.model, step=self.step, most=settings.average)
        self.step += 1
        self.prompts_seen += masks.shape[0]
        if settings.carried:
            again = torch.from_numpy(self.rng.permutation(settings.images)[: settings.carried])
            logits = masks[:, 0].detach().float().cpu().unflatten(0, (settings.images, settings.prompts))
            self.carried = next_round(self.rng, batch.select(again), logits[again])
        values = {name: float(value) for name, value in parts.items()}
        return {"loss": float(loss.detach()), "norm": float(norm), "rate": rate, **values}

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return all masks (I * P, 4, 256, 256) and IoU predictions of a batch."""
        model = self.model
        embeddings = model.image_encoder(batch.images.to(memory_format=torch.channels_last))
        points = (batch.coords.flatten(0, 1), batch.labels.flatten(0, 1))
        logits = batch.logits.flatten(0, 1)[:, None]
        sparse, dense = model.prompt_encoder(points, batch.boxes.flatten(0, 1), logits)
        return model.mask_decoder.predict_masks(embeddings, model.prompt_encoder.get_dense_pe(), sparse, dense)

    def check(self) -> dict[str, Any]:
        """Evaluate the averaged weights."""
        result: dict[str, Any] = {
            "held_out": summary(score_scenes(self.averaged, self.held_out, count=self.settings.check_scenes))
        }
        for name, pictures in self.real_held_out.items():
            result[name] = summary(score_pictures(self.averaged, pictures, most=CHECK_PICTURES))
        if self.evaluation is not None:
            result["folder"] = summary(score_folder(self.averaged, self.evaluation))
        return result

    def run(self, *, stop_after: int | None = None) -> None:
        """Train to the end of the run, or for `stop_after` steps more."""
        last = None if stop_after is None else self.step + stop_after
        sums: dict[str, float] = {}
        count = 0
        while self.progress < 1 and (last is None or self.step < last):
            begun = time.monotonic()
            values = self.train_step()
            self.elapsed += time.monotonic() - begun
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            count += 1
            if self.step % self.settings.report == 0:
                self.log(**{name: round(value / count, 5) for name, value in sums.items()})
                sums, count = {}, 0
            if self.step % self.settings.check == 0:
                self.save()
                self.log(**self.check())
        self.save()

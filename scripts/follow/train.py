"""The training loop of the network that follows objects: resumable, on CPU or CUDA."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from lib.sam.volume.follow_net import FollowNet
from training import learning_rate, move_average

from .stacks import LENGTH, Rng, Slices, Stack, real_stack, synthetic_stack

REAL_SHARE = 0.5
"""Of the stacks, those made of real images, if there are any."""


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    Attributes:
        seed: Seed of weights and stacks.
        steps: Length of the run.
        stacks: Stacks per step.
        rate: Highest learning rate.
        decay: Weight decay.
        average: Decay of the averaged weights per step.
        report: Steps between lines of the log.
        check: Steps between checkpoints and measurements.
        bfloat16: Compute in bfloat16 where PyTorch's autocast does.
    """

    seed: int = 1
    steps: int = 1500
    stacks: int = 8
    rate: float = 2e-3
    decay: float = 0.03
    average: float = 0.99
    report: int = 20
    check: int = 100
    bfloat16: bool = False


def draw_stack(rng: Rng, real: Sequence[Slices]) -> Stack:
    """Return a random stack."""
    while True:
        if real and rng.random() < REAL_SHARE:
            stack = real_stack(rng, real[int(rng.integers(len(real)))])
        else:
            stack = synthetic_stack(rng)
        if stack is not None:
            return stack


class Stacks(IterableDataset[tuple[Tensor, Tensor]]):
    """Random stacks without end: grey values and truth, both float32 (LENGTH, SIDE, SIDE)."""

    def __init__(self, seed: int, real: Sequence[Slices]) -> None:
        self._seed, self._real = seed, real

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            torch.set_num_threads(1)
        rng = np.random.default_rng([self._seed, 0 if worker is None else worker.id])
        while True:
            stack = draw_stack(rng, self._real)
            yield torch.from_numpy(stack.grey), torch.from_numpy(stack.truth.astype(np.float32))


def roughened(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (B, H, W) as a model may have drawn them: grown or shrunk here and there."""
    batch = masks.shape[0]
    field = F.interpolate(torch.randn(batch, 1, 9, 9, generator=generator), size=masks.shape[-2:], mode="bilinear")[
        :, 0
    ]
    soft = F.avg_pool2d(masks[:, None], 9, 1, 4)[:, 0]
    strength = 0.28 * torch.rand(batch, 1, 1, generator=generator)
    return (soft + strength * field > 0.5).float()


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W), half of them shifted: the marked slice is cut out around its own object."""
    result = []
    for image in images:
        most = 24 if torch.rand((), generator=generator) < 0.5 else 0
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        result.append(torch.roll(image, (down, right), (1, 2)))
    return torch.stack(result)


def follow_loss(logits: Tensor, present: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of one step, and each object's Dice.

    Args:
        logits: (B, H, W).
        present: (B,) logits.
        truth: (B, H, W) 0 or 1, empty where the object has ended.
        weight: (B,), 0 for those that ended before.
    """
    there = (truth.sum((1, 2)) > 0).float()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    area = truth.sum((1, 2))
    near = F.max_pool2d(truth[:, None], 25, 1, 12)[:, 0] * 0.8 + 0.2
    entropy = (entropy * near).sum((1, 2)) / near.sum((1, 2))
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * truth).sum((1, 2)) + 1) / (probability.sum((1, 2)) + area + 1)
    known = F.binary_cross_entropy_with_logits(present, there, reduction="none")
    loss = (2 * entropy + dice * there + 0.25 * known) * weight
    with torch.no_grad():
        answer = ((logits > 0) & (present > 0)[:, None, None]).float()
        score = (2 * (answer * truth).sum((1, 2)) + 1e-3) / (answer.sum((1, 2)) + area + 1e-3)
    return loss.sum() / weight.sum().clamp_min(1), score


class Trainer:
    """A run: `state.pt` to resume, `log.jsonl`, and `follow.pt`, the averaged weights."""

    def __init__(self, folder: Path, settings: Settings, real: Sequence[Slices], *, workers: int = 1) -> None:
        torch.manual_seed(settings.seed)
        self.folder, self.settings = folder, settings
        self.model = FollowNet().to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
        self.step, self.elapsed = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self.resume()
        self.generator = torch.Generator().manual_seed(1000 * settings.seed + self.step)
        stacks = Stacks(1000 * settings.seed + self.step, real)
        self.loader = DataLoader(stacks, batch_size=settings.stacks, num_workers=workers)
        rng = np.random.default_rng(2)
        held_out = [draw_stack(rng, ()) for _ in range(40)]
        self.held_out = (
            torch.from_numpy(np.stack([each.grey for each in held_out])),
            torch.from_numpy(np.stack([each.truth for each in held_out]).astype(np.float32)),
        )

    def resume(self) -> None:
        """Continue from `state.pt`."""
        state = torch.load(self.folder / "state.pt", map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        """Write `state.pt` and the averaged weights; both appear whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "settings": asdict(self.settings),
        }
        for name, content in (("state.pt", state), ("follow.pt", self.averaged.state_dict())):
            partial = self.folder / f"{name}.partial"
            torch.save(content, partial)
            partial.replace(self.folder / name)

    def log(self, **values: float) -> None:
        """Append one line to the log, and print it."""
        rounded = {name: round(value, 5) for name, value in values.items()}
        line = json.dumps({"step": self.step, "seconds": round(self.elapsed, 1), **rounded})
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def train_step(self, grey: Tensor, truth: Tensor) -> dict[str, float]:
        """Follow the objects of a batch from their middle slices in one direction, slice by slice."""
        if torch.rand((), generator=self.generator) < 0.5:
            grey, truth = grey.flip(1), truth.flip(1)
        self.model.train()
        rate = learning_rate(self.settings.rate, self.step, self.step / self.settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        middle = LENGTH // 2
        before = roughened(truth[:, middle], self.generator)
        marked = shifted(torch.stack([grey[:, middle], before], 1), self.generator)
        weight = torch.ones(len(truth))
        self.optimizer.zero_grad(set_to_none=True)
        losses, scores = [], []
        for k in range(middle + 1, LENGTH):
            seen = torch.stack([grey[:, k], grey[:, k - 1], marked[:, 0], before, marked[:, 1]], 1)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
                logits, present = self.model(seen.contiguous(memory_format=torch.channels_last))
            loss, score = follow_loss(logits.float(), present.float(), truth[:, k], weight)
            (loss / (LENGTH - 1 - middle)).backward()
            losses.append(float(loss.detach()))
            scores += score[weight > 0].tolist()
            weight = weight * (truth[:, k].sum((1, 2)) > 0)
            own = logits.detach().float().sigmoid()
            is_own = (torch.rand(len(own), 1, 1, generator=self.generator) < 0.5).float()
            before = is_own * own + (1 - is_own) * roughened(truth[:, k], self.generator)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        move_average(self.averaged, self.model, step=self.step, most=self.settings.average)
        return {"loss": float(np.mean(losses)), "dice": float(np.mean(scores)), "norm": float(norm)}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the averaged weights' mean Dice on held-out stacks one to four slices from the marked one."""
        grey, truth = self.held_out
        middle = LENGTH // 2
        before = marked = truth[:, middle]
        scores: dict[str, float] = {}
        for k in range(middle + 1, LENGTH):
            logits, present = self.averaged(
                torch.stack([grey[:, k], grey[:, k - 1], grey[:, middle], before, marked], 1)
            )
            used = truth[:, k - 1].sum((1, 2)) > 0
            _, score = follow_loss(logits, present, truth[:, k], used.float())
            scores[f"held_out_{k - middle}"] = float(score[used].mean())
            before = logits.sigmoid()
        return scores

    def run(self) -> None:
        """Train to the end of the run."""
        sums: list[dict[str, float]] = []
        batches = iter(self.loader)
        while self.step < self.settings.steps:
            begun = time.monotonic()
            sums.append(self.train_step(*next(batches)))
            self.elapsed += time.monotonic() - begun
            if self.step % self.settings.report == 0:
                self.log(**{name: float(np.mean([each[name] for each in sums])) for name in sums[0]})
                sums = []
            if self.step % self.settings.check == 0:
                self.save()
                self.log(**self.measure())
        self.save()

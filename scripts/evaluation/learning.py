"""What labels teach: a simulated annotator accepts them one after the other, and untouched studies are measured.

After each number of labelled pictures the model learns anew, as ``scripts/train_labels`` teaches it, but with all of
the labels and without the comparison that decides what is served. Beside it a small U-Net (MONAI's ``BasicUNet``;
Falk et al. 2019, doi:10.1038/s41592-018-0261-2) learns from the same pictures for as long, from nothing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.cases import find_cases
from held_out import NUMBERED, is_held_out
from lib.learning import automatic, interactive
from lib.learning.curve import draw_curves
from lib.learning.encoded import ENCODING_SHARE, Encoded, encode, encode_varied, varied
from lib.learning.examples import Example, by_study, objects_of
from lib.learning.fitting import Effort, fit, unwatched
from lib.learning.loss import mask_loss, near_weights
from lib.learning.pupil import Pupil
from lib.learning.simulated_user import centre_point, largest_error
from lib.learning.teaching import dice
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointStore
from lib.sam.models.registry import ModelSpec
from lib.sam.packed_mask import tight_box
from lib.sam.prompts import Prompts
from tiny.evaluate import iou

MOST_MEASURED = 40
"""Pictures of these studies."""

OBJECTS = 3
"""Of a picture, by which prompts are measured: the largest."""

ENOUGH, MOST_CLICKS = 0.85, 10
"""IoU that a user wants, and clicks after which one gives up; NoC counts one more then."""

UNET_SIDE, UNET_BATCH = 256, 6
UNET_FEATURES = (16, 16, 32, 64, 128, 16)
"""Half of MONAI's own channels: on a CPU it sees several times as many pictures in the same minutes."""


@dataclass(frozen=True)
class Learned:
    """What was measured after a number of labelled pictures.

    Args:
        pictures: So many; 0: as published.
        box: Mean Dice with a tight box.
        point: With the centre point.
        clicks: Mean number of clicks until an IoU of 0.85.
        automatic: Mean Dice without prompts, of each picture's whole label.
        unet: The same of the U-Net.
    """

    pictures: int
    box: float
    point: float
    clicks: float
    automatic: float | None = None
    unet: float | None = None


def read_examples(folder: Path) -> list[Example]:
    """Return the pictures of a labelled folder, each label's objects in one mask; patients by the files' names."""
    grouped: dict[tuple[Path, int], Example] = {}
    numbering = NUMBERED.get(folder.name)
    for case in find_cases(folder):
        match = re.fullmatch(numbering.pattern, case.file.stem) if numbering else None
        study = match.group(1) if match else case.file.stem
        key = case.file, case.frame_index
        earlier = grouped[key].masks if key in grouped else {}
        together = case.truth | earlier.get(case.label, np.zeros_like(case.truth))
        grouped[key] = Example(study, case.frame, {**earlier, case.label: together})
    return list(grouped.values())


def untouched(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return the pictures to label, study by study, and those to measure, in an order by chance.

    Those to measure are of the patients whom no training of the bundled networks learns from, either.
    """
    studies = sorted({one.study for one in examples}, key=lambda study: zlib.crc32(f"learn {study}".encode()))
    ordered = sorted(examples, key=lambda one: studies.index(one.study))
    to_label = [one for one in ordered if not is_held_out(one.study)]
    to_measure = [one for one in ordered if is_held_out(one.study)]
    return _spread_over_studies(to_label), to_measure[:: max(1, len(to_measure) // MOST_MEASURED)][:MOST_MEASURED]


def _spread_over_studies(examples: Sequence[Example]) -> list[Example]:
    """Return the pictures in rounds that have one of each study: nobody labels every slice of a study at first."""
    rng = np.random.default_rng(0)
    of_studies = by_study(examples).values()
    shuffled = [[pictures[index] for index in rng.permutation(len(pictures))] for pictures in of_studies]
    most = max(map(len, shuffled))
    return [pictures[turn] for turn in range(most) for pictures in shuffled if turn < len(pictures)]


def measure(
    spec: ModelSpec, folder: Path, counts: Sequence[int], *, minutes: float, say: Callable[[str], None]
) -> list[Learned]:
    """Let a model learn from growing numbers of a folder's pictures.

    Args:
        spec: The model.
        folder: As for :func:`~evaluation.cases.find_cases`.
        counts: Numbers of labelled pictures.
        minutes: Of computing, for each training: for prompts, for the label itself, and of the U-Net.
        say: Told each result.
    """
    to_label, to_measure = untouched(read_examples(folder))
    [label] = {label for one in to_label for label in one.masks}
    store = CheckpointStore(MODEL_FOLDER)
    predictor = Engine([spec], MODEL_FOLDER, device="cpu", cache_bytes=0).published(spec.name)
    questions = encode(predictor, to_measure)
    effort = Effort(60 * minutes)
    learning = effort.share(1 - ENCODING_SHARE)
    results = [Learned(0, *_prompted(Pupil(spec, store), questions))]
    say(f"{folder.name}: {label}, {len(to_measure)} pictures measured. {results[0]}")
    for count in counts:
        pictures = encode_varied(predictor, to_label[:count], seconds=effort.share(ENCODING_SHARE).seconds)
        pupil = Pupil(spec, store)
        interactive.learn(pupil, pictures, learning)
        prompted = _prompted(pupil, questions)
        pupil = Pupil(spec, store)
        prompt, _ = automatic.learn(pupil, label, pictures, learning)
        with torch.no_grad():
            answers = [pupil.masks(pupil.find(seen, prompt)[0], seen)[0] for seen in questions]
        found = [dice(answer, seen.mask(label)) for answer, seen in zip(answers, questions, strict=True)]
        unet = _unet(to_label[:count], to_measure, label, effort)
        results.append(Learned(count, *prompted, round(float(np.mean(found)), 4), unet))
        say(str(results[-1]))
    return results


@torch.no_grad()
def _prompted(pupil: Pupil, questions: Sequence[Encoded]) -> tuple[float, float, float]:
    """Return the mean Dice with a box and with a point, and the mean number of clicks."""
    box: list[float] = []
    point: list[float] = []
    clicks: list[int] = []
    for seen in questions:
        for mask in [one for label in seen.packed for one in objects_of(seen.mask(label), OBJECTS)]:
            box.append(dice(_ask(pupil, seen, Prompts(box=tight_box(mask)))[0], mask))
            prompts = Prompts.from_clicks([centre_point(mask)])
            answer, logits = _ask(pupil, seen, prompts)
            point.append(dice(answer, mask))
            count = 1
            while iou(answer, mask) < ENOUGH and count <= MOST_CLICKS:
                error = largest_error(mask, answer)
                if error is not None and count < MOST_CLICKS:
                    points = [*prompts.points.tolist(), list(centre_point(error[0]))]
                    prompts = Prompts(points, [*prompts.labels.tolist(), error[1]], None, logits)  # type: ignore[arg-type]
                    answer, logits = _ask(pupil, seen, prompts)
                count += 1
            clicks.append(count)
    return round(float(np.mean(box)), 4), round(float(np.mean(point)), 4), round(float(np.mean(clicks)), 2)


def _ask(pupil: Pupil, seen: Encoded, prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask ``(H, W)`` and its logits ``(S, S)``."""
    logits, _ = pupil.answer(seen, [prompts])
    return pupil.masks(logits, seen)[0], logits[0, 0].numpy()


def _unet(learned: Sequence[Example], measured: Sequence[Example], label: str, effort: Effort) -> float:
    """Return the mean Dice of a U-Net that learned from the same pictures, varied in the same way each time."""
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network: nn.Module = BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=UNET_FEATURES).train()

    def loss() -> Tensor:
        chosen = [learned[index] for index in rng.integers(len(learned), size=UNET_BATCH)]
        batch = [_as_input(varied(rng, example), label) for example in chosen]
        pixels, target = (torch.stack(tensors) for tensors in zip(*batch, strict=True))
        values, _ = mask_loss(network(pixels), target, near_weights(target[:, 0] > 0)[:, None])
        return values.mean()

    fit(list(network.parameters()), loss, effort, unwatched)
    network.eval()
    scores = []
    with torch.no_grad():
        for example in measured:
            pixels, _ = _as_input(example, label)
            truth = example.masks[label]
            logits = F.interpolate(network(pixels[None]), truth.shape, mode="bilinear")
            scores.append(dice((logits[0, 0] > 0).numpy(), truth))
    return round(float(np.mean(scores)), 4)


def _as_input(example: Example, label: str) -> tuple[Tensor, Tensor]:
    """Return a picture, stretched to a square, and its mask, ``(3, S, S)`` and ``(1, S, S)`` float32."""
    side = (UNET_SIDE, UNET_SIDE)
    pixels = torch.from_numpy(example.picture.astype(np.float32)).permute(2, 0, 1)[None]
    mask = torch.from_numpy(example.masks[label].astype(np.float32))[None, None]
    small = F.interpolate(pixels, side, mode="bilinear", antialias=True)[0]
    return (small - small.mean()) / (small.std() + 1), F.interpolate(mask, side, mode="area")[0]


def as_table(results: Sequence[Learned]) -> str:
    """Return the results as lines of text."""
    lines = ["pictures   box  point  clicks  auto  U-Net"]
    for one in results:
        alone = " ".join("     -" if value is None else f"{value:6.3f}" for value in (one.automatic, one.unet))
        lines.append(f"{one.pictures:8d} {one.box:5.3f}  {one.point:5.3f}  {one.clicks:6.2f} {alone}")
    return "\n".join(lines)


def as_picture(results: Sequence[Learned], name: str) -> bytes:
    """Return the learning curves as a PNG: mean Dice over the number of labelled pictures."""
    values = {"box": "box", "point": "point", "no prompt": "automatic", "U-Net": "unet"}
    curves = {
        title: [(one.pictures, value) for one in results if (value := getattr(one, field)) is not None]
        for title, field in values.items()
    }
    return draw_curves(curves, f"mean Dice by the number of labelled pictures, {name}", 1.0)


def as_json(results: Sequence[Learned]) -> str:
    """Return the results as JSON."""
    rows: list[dict[str, Any]] = [asdict(one) for one in results]
    return json.dumps(rows, indent=2) + "\n"

"""The curves of a run and the model card."""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .evaluate import ObjectScore, summary

CARD = """# sam_tiny

A small model for interactive segmentation with the pattern and the interfaces of the Segment Anything Model
(Kirillov et al., 2023, [arXiv:2304.02643](https://arxiv.org/abs/2304.02643)): an image encoder that runs once per
image, and a prompt encoder and mask decoder that answer each click or box. It was trained on **synthetic images
alone**: random shapes with random intensities. No image of a patient, no photograph and no other model was used.

**For:** a default that works at once and offline; demonstrations; tests. **Not for:** diagnosis, treatment or any
other clinical use; measurements; a comparison with models that have seen medical images.

| | |
|---|---|
| Parameters | {parameters:.2f} million, {bytes:.1f} MiB in half precision (safetensors) |
| Input | {img_size}x{img_size}, longest side scaled, padded right and bottom; grey (replicated) or RGB |
| Embedding | {embed_dim}x64x64 |
| Answer | logits 256x256: 1 mask, or 3 candidates, each with a predicted IoU |
| Prompts | points (foreground, background), one box, logits of an earlier answer |
| Licence | as the project |

## How it was made

`{command}`

{scenes} scenes of {img_size}x{img_size} pixels with up to 20 objects each, made by `scripts/tiny` from random
numbers (seed {seed}): CT-like bodies and limbs with random organs, random label maps, cells, overlapping shapes and
tubes, ultrasound-like and X-ray-like scenes; random windows, blur, bias fields and noise. {steps} steps with
{images} scenes and {prompts} prompts each per step, {seen} prompts in all, {minutes:.0f} minutes of training on
{machine}. Prompts: tight and careless boxes, one or several clicks, both, and corrective clicks on an earlier answer.
Loss: cross-entropy and Dice, the best of three candidates, and the error of the predicted IoU. The weights are an
exponential average over the steps. {remark}

## What it reaches

Mean Dice; the point is the centre of the largest circle inside the object.

| | Objects | Box | Point | Point, best-rated of 3 | Filled box | Ellipse in the box |
|---|---|---|---|---|---|---|
{rows}

{details}

## Limits

Details finer than 1/256 of the longer side are lost. One point is often ambiguous: the answer may be a part of the
object meant or the whole that it belongs to; a box or more points settle it. Objects that are bounded by knowledge of
anatomy rather than by a visible border are answered with a smooth shape that fits the prompt. The predicted IoU tells
kinds of prompts apart better than good answers from bad ones. The synthetic bodies were designed with an eye on CT
slices, those measured here among them: the figures are not those of an untouched test set.
"""


def write_card(
    path: Path, *, facts: dict[str, Any], held_out: dict[str, Any] | None, scores: list[ObjectScore], name: str
) -> None:
    """Write the model card.

    Args:
        path: File to write.
        facts: Values for the card's text.
        held_out: Means on held-out scenes, from the log.
        scores: Scores of the objects of an evaluation folder; empty without one.
        name: What the evaluation folder holds, for the table.
    """
    rows, details = [], ""
    if held_out:
        values = f"{held_out['box']:.3f} | {held_out['point']:.3f}"
        rows.append(f"| Held-out synthetic scenes | {held_out['objects']} | {values} | | | |")
    if scores:
        mean = summary(scores)
        values = " | ".join(f"{mean[key]:.3f}" for key in ("box", "point", "point_best", "full_box", "ellipse"))
        rows.append(f"| {name} | {mean['objects']} | {values} |")
        details = f"{mean['holds_point']} of the {mean['objects']} answers to a point hold the point. By object:\n\n"
        details += "| Object | Pixels | Box | Point | Ellipse in the box |\n|---|---|---|---|---|\n"
        details += "\n".join(
            f"| {score.name} | {score.area} | {score.box:.2f} | {score.point:.2f} | {score.ellipse:.2f} |"
            for score in scores
        )
    text = CARD.format(rows="\n".join(rows), details=details, **facts)
    blocks = [block.strip("\n") for block in text.split("\n\n")]
    text = "\n\n".join(fill(block) for block in blocks if block)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def fill(block: str) -> str:
    """Return a paragraph with its lines filled; tables, headings and code stay as they are."""
    return block if block.startswith(("|", "#", "`")) else textwrap.fill(block, 118, break_on_hyphens=False)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and Dice over the prompts seen, one panel each, into a PNG of 900x400 pixels."""
    from PIL import Image, ImageDraw

    curves: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": defaultdict(list), "Dice": defaultdict(list)}
    for line in lines:
        for key in ("single", "candidates"):
            if key in line:
                curves["loss"][key].append((line["prompts"], line[key]))
        for group in ("held_out", "folder"):
            for key in ("box", "point"):
                if group in line:
                    curves["Dice"][f"{group} {key}"].append((line["prompts"], line[group][key]))
    picture = Image.new("RGB", (900, 400), "white")
    draw = ImageDraw.Draw(picture)
    colours = ["#1b6ca8", "#d1495b", "#2e933c", "#8d6a9f"]
    for panel, (title, series) in enumerate(curves.items()):
        left, top, width, height = 50 + 450 * panel, 30, 380, 320
        points = np.array([point for values in series.values() for point in values] or [(0, 0)], float)
        right = max(points[:, 0].max(), 1)
        low, high = (0.0, 1.0) if title == "Dice" else (0.0, max(points[:, 1].max(), 1e-3))
        draw.rectangle((left, top, left + width, top + height), outline="black")
        draw.text((left, 10), f"{title} over prompts (to {right:,.0f}); {low:g} to {high:.2f}", fill="black")
        for index, (name, values) in enumerate(series.items()):
            colour = colours[index % len(colours)]
            draw.text((left + 10, top + height + 5 + 10 * index), name, fill=colour)
            path_points = [
                (left + x / right * width, top + height - (min(max(y, low), high) - low) / (high - low) * height)
                for x, y in values
            ]
            if len(path_points) > 1:
                draw.line(path_points, fill=colour, width=2)
    picture.save(path)

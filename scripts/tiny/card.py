"""The curves of a run and the model card."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from held_out import CREDITS
from training import fill

CARD = """# sam_tiny

A small model for interactive segmentation with the pattern and the interfaces of the Segment Anything Model
(Kirillov et al., 2023, [arXiv:2304.02643](https://arxiv.org/abs/2304.02643)): an image encoder that runs once per
image, and a prompt encoder and mask decoder that answer each click or box. {taught}

**For:** a default that works at once and offline; demonstrations; tests. **Not for:** diagnosis, treatment or any
other clinical use; measurements; a comparison with models that have seen medical images.

| | |
|---|---|
| Parameters | {parameters:.2f} million, {bytes:.1f} MiB in half precision (safetensors) |
| Input | {img_size}x{img_size}, longest side scaled, padded right and bottom; grey (replicated) or RGB |
| Embedding | {embed_dim}x64x64 |
| Answer | logits 256x256: 1 mask, or 3 candidates, each with a predicted IoU |
| Prompts | points (foreground, background), one box, logits of an earlier answer |
| Licence | as the project{credited} |

## How it was made

`{command}`

{scenes} scenes of {img_size}x{img_size} pixels with up to 20 objects each, made by `scripts/tiny` from random numbers
(seed {seed}): CT-like bodies and limbs with random organs, vessels, bones and metal, random label maps, cells,
overlapping shapes, crescents and tubes, ultrasound-like and X-ray-like scenes; random windows, blur, bias fields,
noise, zoom and resolution. {steps} steps with {images} scenes and {prompts} prompts each per step, {seen} prompts in
all, {minutes:.0f} minutes of training on {machine}. {begun}

Prompts: tight, shifted and careless boxes, one or several clicks, both, and corrective clicks on an earlier answer.
Loss: cross-entropy and Dice, the best of three candidates, and the error of the predicted IoU. The weights are an
exponential average over the steps. {remark}

{sources}

![Loss over the run, and Dice where it was measured on the way]({curves})

## What it reaches

{held_out}

{real}

{results}

## Limits

Masks are made at 256x256: details finer than 1/256 of the longer side are lost. One point is often ambiguous: the
answer may be a part of the object meant or the whole that it belongs to; a box or more points settle it. Objects that
are bounded by knowledge of anatomy rather than by a visible border are answered with a smooth shape that fits the
prompt. The synthetic bodies were designed with an eye on CT slices, those measured here among them, and these helped
to choose among versions: the figures are not those of an untouched test set.
"""


def write_card(
    path: Path,
    *,
    facts: dict[str, Any],
    held_out: dict[str, float],
    real: dict[str, dict[str, float]],
    results: list[dict[str, Any]],
    name: str,
) -> None:
    """Write the model card.

    Args:
        path: File to write.
        facts: Values for the card's text; `curves` is the path of the picture from there, `learned_from` the number
            of real pictures by set.
        held_out: `evaluate.summary` of held-out scenes.
        real: The same of held-out pictures, by set.
        results: The summary in `results.json` of ``scripts/evaluate``; empty if nothing was measured.
        name: What was measured there.
    """
    scenes = (
        f"On {held_out['objects']} objects of held-out synthetic scenes, mean Dice: {held_out['box']:.3f} from a "
        f"tight box, {held_out['jitter']:.3f} from one shifted by up to 5 pixels, {held_out['point']:.3f} from a "
        f"point at the centre, {held_out['clicks']:.3f} with two corrective clicks more, {held_out['box_clicks']:.3f} "
        f"from a box and five clicks; predicted and true IoU correlate with r = {held_out['rating']:.2f}."
    )
    table = ""
    if results:
        table = (
            f"{name} (`scripts/evaluate`):\n\n| Prompt | Dice (95 %) | IoU | r of predicted IoU |\n|---|---|---|---|\n"
        )
        for line in results:
            dice, known = line["dice"], line["score_correlation"]
            interval = f"{dice['mean']:.3f} ({dice['low']:.3f}-{dice['high']:.3f})"
            rating = "" if known is None else f"{known:.2f}"
            table += f"| {line['row']} | {interval} | {line['iou']['mean']:.3f} | {rating} |\n"
    text = CARD.format(
        held_out=scenes, real=_real_results(real), results=table, **_sources(facts.pop("learned_from")), **facts
    )
    blocks = [block.strip("\n") for block in text.split("\n\n")]
    text = "\n\n".join(fill(block) for block in blocks if block)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def _sources(learned_from: dict[str, int]) -> dict[str, str]:
    """Return what the card says of the pictures that the run learned from, their number given by set."""
    if not learned_from:
        alone = (
            "It was trained on **synthetic images alone**: random shapes with random intensities. No image of a "
            "patient, no photograph and no other model was used."
        )
        return {"taught": alone, "credited": "", "sources": ""}
    rows = "".join(f"| {CREDITS.get(name, name)} | {count} |\n" for name, count in learned_from.items())
    return {
        "taught": "It was trained on **synthetic images and on openly licensed real ones**, listed below.",
        "credited": "; the images that it learned from are listed below",
        "sources": f"| Real images | pictures |\n|---|---|\n{rows}",
    }


def _real_results(real: dict[str, dict[str, float]]) -> str:
    """Return the table of held-out pictures, or nothing if there are none."""
    if not real:
        return ""
    rows = "".join(
        f"| {CREDITS.get(name, name)} | {score['objects']} | {score['box']:.3f} | {score['jitter']:.3f} | "
        f"{score['point']:.3f} | {score['clicks']:.3f} | {score['box_clicks']:.3f} | {score['rating']:.2f} |\n"
        for name, score in real.items()
    )
    return (
        "On pictures of patients whom it was not trained on, mean Dice:\n\n"
        "| Set | objects | box | shifted box | point | and 2 clicks | box and 5 clicks | r of predicted IoU |\n"
        f"|---|---|---|---|---|---|---|---|\n{rows}"
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _curves(lines: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the curves of a log by panel and name, each as points (prompts seen, value)."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": defaultdict(list)}
    for line in lines:
        for group, value in line.items():
            if isinstance(value, dict) and group != "final":
                curves.setdefault(group, defaultdict(list))
    for line in lines:
        for key in ("single", "candidates", "quality"):
            if key in line:
                curves["loss"][key].append((line["prompts"], line[key]))
        for group in curves.keys() - {"loss"}:
            for key, value in line.get(group, {}).items():
                if key != "objects":
                    curves[group][key].append((line["prompts"], value))
    return curves


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw loss, Dice and rating over the prompts seen into a PNG, one panel of 450x440 pixels for each."""
    from PIL import Image, ImageDraw

    curves = _curves(lines)
    picture = Image.new("RGB", (450 * len(curves), 440), "white")
    draw = ImageDraw.Draw(picture)
    colours = ["#1b6ca8", "#d1495b", "#2e933c", "#8d6a9f", "#c98a1b", "#555555"]
    for panel, (title, series) in enumerate(curves.items()):
        left, top, width, height = 50 + 450 * panel, 30, 380, 320
        points = np.array([point for values in series.values() for point in values] or [(0, 0)], float)
        right = max(points[:, 0].max(), 1)
        low, high = (0.0, max(points[:, 1].max(), 1e-3)) if title == "loss" else (0.0, 1.0)
        draw.rectangle((left, top, left + width, top + height), outline="black")
        what = title if title == "loss" else f"{title}: Dice, and r of the predicted IoU"
        draw.text((left, 10), f"{what}, over prompts (to {right:,.0f}); {low:g} to {high:.2f}", fill="black")
        for index, (name, values) in enumerate(series.items()):
            colour = colours[index % len(colours)]
            last = f"{name} {values[-1][1]:.3f}"
            draw.text((left + 10 + 190 * (index // 3), top + height + 8 + 14 * (index % 3)), last, fill=colour)
            path_points = [
                (left + x / right * width, top + height - (min(max(y, low), high) - low) / (high - low) * height)
                for x, y in values
            ]
            if len(path_points) > 1:
                draw.line(path_points, fill=colour, width=2)
    picture.save(path)
